"""The page in a real browser: the map lies on the slide, and what a person does there works."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comel.bags.bag import write_bag
from service.access.keys import KeyStore
from service.vendor import vendored
from tests.service.viewer.known_slides import TUMOUR
from tests.service.viewer.looking import set_range, stage, tumour_and_map, until
from tests.service.viewer.viewer_server import CONTRACT, Darkness, listening

CLOSEST = 2
"""Screen pixels by which the map's edge may lie beside the tumour's."""


def assert_aligned(page: Any) -> None:
    """Every edge of the tumour that is on the screen has the map's edge beside it."""
    tumour, shown, (width, height) = tumour_and_map(page)
    inside = [edge for edge, limit in zip(range(4), (width, height, width, height), strict=True) if 0 < tumour[edge] < limit]
    assert len(inside) >= 2
    np.testing.assert_allclose([shown[edge] for edge in inside], [tumour[edge] for edge in inside], atol=CLOSEST)


def test_the_map_lies_on_a_slide_with_bounds(open_page: Any, server: Any) -> None:
    prediction = server.predicted("bounds")
    page = open_page(f"#/predictions/{prediction}")
    page.wait_for_selector("#top-tiles img[src]")
    assert_aligned(page)
    left, top, *_ = server.slides["bounds"].tumour
    page.evaluate(f"location.hash = '#/predictions/{prediction}?x={left}&y={top}&zoom=1.7'")
    assert_aligned(page)


def test_no_result_stays_beside_what_cannot_be_shown(open_page: Any, server: Any) -> None:
    page = open_page(f"#/predictions/{server.predicted('plain')}", expected="404")
    page.wait_for_selector("#top-tiles img[src]")
    assert "tumour" in page.locator("#result").inner_text()
    for kind, missing in (("predictions", "prediction"), ("slides", "slide")):
        page.evaluate(f"location.hash = '#/{kind}/{'0' * 32}'")
        until(page, f"document.getElementById('said').textContent.startsWith('there is no {missing} of this id')")
        assert "tumour" not in page.locator("#result").inner_text()
        assert page.locator("#top-tiles img").count() == 0
        assert not page.locator("#exports button").count()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "bounds"])
def test_the_map_lies_on_the_slide_at_every_zoom(open_page: Any, server: Any, name: str) -> None:
    prediction, slide = server.predicted(name), server.slides[name]
    left, top, right, bottom = slide.tumour
    page = open_page(f"#/predictions/{prediction}")
    page.wait_for_selector("#top-tiles img[src]")
    assert_aligned(page)
    for x, y, zoom in ((left, top, 0.4), (right, bottom, 0.9), (left, bottom, 2.3), (right, top, 6.1)):
        page.evaluate(f"location.hash = '#/predictions/{prediction}?x={x}&y={y}&zoom={zoom}'")
        assert_aligned(page)
    page.set_viewport_size({"width": 1000, "height": 640})
    page.keyboard.press("0")
    assert_aligned(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    assert_aligned(page)


@pytest.mark.slow
def test_a_slide_is_submitted_and_watched_until_it_is_done(open_page: Any, server: Any) -> None:
    page = open_page()
    page.get_by_role("link", name="plain.tif").click()
    until(page, "location.hash.includes('zoom=')")
    assert page.locator("#scale-bar").is_visible()
    page.get_by_role("button", name="Predict").first.click()
    assert page.locator("#submit-slide-name").inner_text() == "plain.tif"
    page.locator("#submit-send").click()
    until(page, "location.hash.startsWith('#/predictions/')")
    page.wait_for_selector("#top-tiles img[src]")
    assert "tumour" in page.locator("#verdict").inner_text()
    page.get_by_role("tab", name="Jobs").click()
    page.wait_for_selector("#list-jobs .dot.done")


@pytest.mark.slow
def test_a_bag_is_sent_in_parts_and_shown_without_a_slide(open_page: Any, make_bag: Any, tmp_path: Path) -> None:
    path = tmp_path / "ward-7.h5"
    write_bag(path, make_bag(np.linspace(0, 1, 400), slide_id="ward-7", contract=CONTRACT))
    page = open_page()
    page.keyboard.press("p")
    page.locator("#submit-file").set_input_files(path)
    page.locator("#submit-send").click()
    until(page, "location.hash.startsWith('#/predictions/')")
    until(page, "location.hash.includes('zoom=')")
    assert "ward-7" in page.locator("#verdict").inner_text()
    pixels = stage(page)
    set_range(page, "opacity", 0.1)
    assert (stage(page) != pixels).any(axis=2).mean() > 0.05


@pytest.mark.slow
def test_opacity_threshold_colours_and_keys_change_the_map_and_the_address(open_page: Any, server: Any) -> None:
    page = open_page(f"#/predictions/{server.predicted('plain')}")
    page.wait_for_selector("#top-tiles img[src]")
    seen = [stage(page)]
    for change in (
        lambda: set_range(page, "opacity", 0.9),
        lambda: set_range(page, "threshold", 0.05),
        lambda: page.locator("#colours").select_option("inferno"),
        lambda: set_range(page, "threshold", 0.99),
        lambda: page.locator("#hide-below").check(),
    ):
        change()
        seen.append(stage(page))
        assert (seen[-1] != seen[-2]).any()
    until(page, "location.hash.includes('opacity=0.9') && location.hash.includes('colours=inferno')")
    address = page.url
    again = open_page(address[address.index("#") :])
    again.wait_for_selector("#top-tiles img[src]")
    assert again.locator("#threshold").input_value() == "0.99"
    assert again.locator("#hide-below").is_checked()
    again.locator("#top-tiles button").first.click()
    until(again, "!location.hash.includes('x=1536&y=1152')")
    again.keyboard.press("?")
    assert again.locator("#help-dialog").is_visible()
    assert again.locator("#keys tr").count() >= 10
    with again.expect_download() as saved:
        again.locator("#help-dialog button").click()
        again.get_by_role("button", name="Map (PNG)").click()
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_job_is_cancelled(open_page: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(tiles: np.ndarray) -> np.ndarray:
        begun.set()
        go_on.wait(600)
        return Darkness().encode(tiles)

    monkeypatch.setattr(Darkness, "encode", lambda self, tiles: wait(tiles))
    page = open_page()
    page.get_by_role("link", name="plain.tif").click()
    until(page, "location.hash.includes('zoom=')")
    page.keyboard.press("p")
    page.locator("#submit-send").click()
    page.wait_for_selector("#cancel-job")
    assert begun.wait(600)
    page.locator("#cancel-job").click()
    until(page, "document.getElementById('job-state')?.textContent === 'cancelled'")
    go_on.set()


@pytest.mark.slow
def test_the_page_asks_for_a_key_and_keeps_it_in_the_tab_only(open_page: Any, known_slides: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    key = KeyStore(tmp_path / "state").add("ward-7", "predict")
    with listening(tmp_path, known_slides) as guarded:
        page = open_page(url=guarded.url, expected="401")
        page.locator("#key-field").fill(key)
        page.locator("#key-dialog button[value=use]").click()
        page.get_by_role("link", name="bounds.scn").click()
        until(page, "location.hash.includes('zoom=')")
        colours = stage(page).reshape(-1, 3)
        assert (np.abs(colours - TUMOUR).sum(axis=1) < 60).sum() > 1000
        assert page.evaluate("[sessionStorage.length, Object.values(localStorage).join()]") == [1, ""]
        assert key not in page.content()
        page.close()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_screen(open_page: Any, server: Any, width: int, dark: bool) -> None:
    page = open_page(f"#/predictions/{server.predicted('bounds')}", width=width, height=844, dark=dark)
    until(page, "location.hash.includes('zoom=')")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("html").get_attribute("data-theme") == ("dark" if dark else "light")
    parts = ["library", "stage", "result"]
    for part in parts if width == 390 else []:
        page.locator(f"#go-{part}").click()
        assert [page.locator(f"#{other}").is_visible() for other in parts] == [other == part for other in parts]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground


@pytest.mark.slow
@pytest.mark.skipif(vendored("swagger-ui-bundle.js") is None, reason="needs Swagger UI: make viewer")
def test_the_page_of_the_api_loads_nothing_from_elsewhere(open_page: Any) -> None:
    page = open_page("docs", ready=".opblock-summary")
    page.get_by_text("Predict one slide").click()
    page.wait_for_selector(".opblock-body")
