"""Hostile uploads are refused quickly, with a problem, and leave nothing behind."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from starlette.requests import Request

from comel.bags.bag import write_bag
from comel.errors import ComelError
from service.errors import TooLargeError
from service.intake.bodies import limited
from service.intake.hdf5_check import check_hdf5
from service.intake.tiff_check import check_tiff
from service.settings import ServiceSettings
from tests.service.hostile import SLIDES, UPLOADS
from tests.service.in_process import app_with


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert len(UPLOADS) >= 40
    assert len(SLIDES) >= 14


def test_hostile_slides_are_refused_and_the_service_goes_on(settings: ServiceSettings, predictor: Any, tmp_path: Path) -> None:
    """All in one service: what one of them does to the process that looks at it must not reach the next."""
    folder = tmp_path / "sender"
    folder.mkdir()
    with TestClient(app_with(settings, predictor), raise_server_exceptions=False) as client:
        for name, build in SLIDES.items():
            content = build(folder)
            begun = client.post("/v1/uploads", json={"filename": "slide.tif", "size": len(content)})
            assert begun.status_code == 201, begun.text
            answer = client.put(f"/v1/uploads/{begun.json()['id']}", params={"offset": 0}, content=content)
            assert answer.status_code < 500, (name, answer.text[:300])
            assert str(tmp_path) not in answer.text
            if answer.status_code < 400:
                assert name.startswith("fuzzed"), name  # random changes may leave a slide that can be read
                continue
            assert answer.headers["content-type"] == "application/problem+json"
            assert client.get(f"/v1/uploads/{begun.json()['id']}").status_code == 404
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("name", UPLOADS)
def test_a_hostile_upload_is_refused(name: str, settings: ServiceSettings, predictor: Any, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"max_upload_bytes": 4 << 20})
    folder = tmp_path / "sender"
    folder.mkdir()
    arguments = UPLOADS[name](folder)
    with TestClient(app_with(settings, predictor), raise_server_exceptions=False) as client:
        answer = client.post("/v1/predictions", **arguments)
    if answer.status_code < 400:
        assert name.startswith("fuzzed")  # random changes may leave a bag that can be read
        return
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 2000
    assert str(tmp_path) not in answer.text
    assert "root:" not in answer.text
    left = {path.name for path in settings.state_dir.rglob("*")}
    own = {"audit.jsonl", "comel.db", "comel.db-shm", "comel.db-wal", "pseudonym.key", "reserve", "state.id", "uploads"}
    assert left <= own


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("huge_declared_shape", "declares"),
        ("one_huge_chunk", "chunks of"),
        ("deep_groups", "nested deeper than 4"),
        ("crowded_group", "more than 200 objects"),
        ("soft_link", "'/features' is a link"),
        ("external_link", "'/features' is a link"),
        ("external_link_to_a_device", "'/labels' is a link"),
        ("external_storage", "'/features' does not hold its own data"),
        ("virtual_dataset", "'/features' does not hold its own data"),
        ("hard_link_cycle", "nested deeper than 4"),
        ("other_filter", "filter that is not accepted"),
        ("many_instances_of_nothing", "10000000 instances"),
        ("one_string_read_many_times", "attribute is too large"),
        ("many_attributes", "500 attributes"),
    ],
)
def test_what_is_hostile_is_seen_before_anything_is_read(name: str, said: str, tmp_path: Path) -> None:
    UPLOADS[name](tmp_path)
    with pytest.raises(ComelError, match=said):
        check_hdf5(tmp_path / "hostile.h5", max_bytes=64 << 20, max_instances=50_000)


def test_an_honest_bag_passes(make_bag: Any, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag.h5", make_bag([0.1, 0.9]))
    check_hdf5(tmp_path / "bag.h5", max_bytes=10_000, max_instances=2)
    with pytest.raises(TooLargeError, match="2 instances"):
        check_hdf5(tmp_path / "bag.h5", max_bytes=10_000, max_instances=1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("slide_of_absurd_size", "states 2147483584 x 2147483584 pixels"),
        ("slide_of_absurd_tiles", "tiles of more than 8192"),
        ("slide_of_no_tiles", "without width"),
        ("slide_without_width", "without width"),
        ("slide_whose_directory_leads_to_itself", "no end"),
        ("slide_that_declares_terabytes", "outside the file|pixels"),
    ],
)
def test_what_is_hostile_in_a_slide_is_seen_before_a_library_opens_it(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(SLIDES[name](tmp_path))
    with pytest.raises(ComelError, match=said):
        check_tiff(tmp_path / "sent")


def test_honest_slides_and_other_files_pass_the_look(tmp_path: Path) -> None:
    pixels = np.zeros((256, 256, 3), np.uint8)
    for how in ({}, {"bigtiff": True}, {"byteorder": ">"}):
        with tifffile.TiffWriter(tmp_path / "slide.tif", **how) as file:
            for step in (1, 2, 4):
                file.write(pixels[::step, ::step], photometric="rgb", tile=(64, 64), subfiletype=int(step > 1))
        check_tiff(tmp_path / "slide.tif")
    (tmp_path / "other").write_bytes(b"\x00" * 100)
    check_tiff(tmp_path / "other")


@pytest.mark.parametrize("declared", [b"\xb2", b"-1", b"1" * 5000, b"", b"0x10", b"00"])
def test_a_stated_length_is_never_trusted(declared: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(200), "more_body": False}

    async def ask() -> None:
        scope = {"type": "http", "headers": [(b"content-length", declared)]}
        await limited(Request(scope, receive), 100).body()

    with pytest.raises(TooLargeError, match="larger than 100"):
        anyio.run(ask)


def test_a_body_is_refused_as_soon_as_it_is_too_long(settings: ServiceSettings, predictor: Any) -> None:
    """Asked without a client in between, which would read the whole body first."""
    settings = settings.model_copy(update={"max_upload_bytes": 4 << 20})
    head = b'--x\r\nContent-Disposition: form-data; name="bag"; filename="a.h5"\r\n\r\n'
    asked, said = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        assert asked < 10
        return {"type": "http.request", "body": head if asked == 1 else bytes(1 << 20), "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    app = app_with(settings, predictor)
    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"127.0.0.1")]
    scope = {"type": "http", "method": "POST", "path": "/v1/predictions", "query_string": b"", "headers": headers}

    async def ask() -> None:
        async with app.router.lifespan_context(app):
            await app({**scope, "app": app, "asgi": {"version": "3.0"}, "http_version": "1.1"}, receive, send)

    anyio.run(ask)
    assert said[0]["status"] == 413
    assert asked == 6
