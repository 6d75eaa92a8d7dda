"""Slides whose tumour is known, a service that shows them, and a headless Chromium that looks at its page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from service.http.routes.viewer import viewer_file
from tests.service.viewer.known_slides import KnownSlide, write_plain_slide, write_slide_with_bounds
from tests.service.viewer.viewer_server import Darkness, Server, listening

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 600_000
"""Most milliseconds that the page may take for anything: machines may be slow."""


@pytest.fixture(scope="session")
def known_slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KnownSlide]:
    folder = tmp_path_factory.mktemp("known-slides")
    return {"plain": write_plain_slide(folder / "plain.tif"), "bounds": write_slide_with_bounds(folder / "bounds.scn")}


@pytest.fixture(scope="session")
def server(known_slides: dict[str, KnownSlide], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for all tests of the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: Darkness())
        with listening(tmp_path_factory.mktemp("viewer"), known_slides) as running:
            yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    if viewer_file("openseadragon.min.js") is None:
        pytest.skip("needs OpenSeadragon: make viewer")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, server: Server) -> Iterator[Any]:
    """Opens the page at an address's hash; at the end the console must be empty and no request have gone elsewhere."""
    complaints: list[str] = []
    pages = []

    def open_at(
        place: str = "",
        *,
        url: str = server.url,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        expected: str = "",
        ready: str = "html[data-ready]",
    ) -> Any:
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        pages.append(page)
        page.set_default_timeout(PATIENCE)

        def heard(message: Any) -> None:
            if message.type in ("error", "warning") and not (expected and expected in message.text):
                complaints.append(f"{message.text} ({message.location})")

        def asked(request: Any) -> None:
            if not request.url.startswith((url, "blob:", "data:")):
                complaints.append(request.url)

        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.goto(f"{url}/{place}")
        page.wait_for_selector(ready)
        return page

    yield open_at
    for page in pages:
        page.close()
    assert complaints == []
