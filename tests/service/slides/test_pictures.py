"""Slides are listed by ids, and their tiles and rasters have the right pixels in the right place."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from comel.bags.bag import TileGeometry
from comel.prediction.prediction import Prediction
from comel.prediction.raster import raster_picture, score_raster
from service.db.cursors import page_of
from service.settings import ServiceSettings
from service.slides.pictures import OVERLAP, TILE_SIZE, TileGrid, max_level
from tests.places import ROOT

WIDTH, HEIGHT = 1400, 1100


def ramp(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Red grows to the right and green downwards, so that a pixel's colour says where it lies."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 128)], axis=-1).astype(np.uint8)


def write_ramp(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, ramp(), tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    return path


@pytest.fixture
def slide(client: TestClient, settings: ServiceSettings) -> dict[str, Any]:
    """A slide of the folder, as the list has it."""
    write_ramp(settings.slide_roots[0] / "case-7" / "ramp.tif")
    entry: dict[str, Any] = client.get("/v1/slides").json()["items"][0]
    return entry


def picture(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)


def test_slides_are_listed_by_ids_and_names_without_their_folders(client: TestClient, settings: ServiceSettings) -> None:
    root = settings.slide_roots[0]
    for name in ("b/Two.tif", "a/one.tif", "a/three.svs", ".hidden/x.tif", "notes.txt"):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 10)
    (root / "link.tif").symlink_to(root / "a" / "one.tif")
    (root / "outside").symlink_to(root.parent)
    answer = client.get("/v1/slides")
    assert [item["name"] for item in answer.json()["items"]] == ["Two.tif", "one.tif", "three.svs"]
    assert not any(folder in answer.text for folder in ("a/", "b/", str(root)))
    ids = {item["id"] for item in answer.json()["items"]}
    assert len(ids) == 3
    first = client.get("/v1/slides", params={"limit": 2}).json()
    rest = client.get("/v1/slides", params={"limit": 2, "cursor": first["next"]}).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["Two.tif", "one.tif", "three.svs"]
    assert rest["next"] is None
    assert [item["name"] for item in client.get("/v1/slides", params={"prefix": "T"}).json()["items"]] == [
        "Two.tif",
        "three.svs",
    ]
    assert client.get("/v1/slides", params={"cursor": "###"}).status_code == 422


def test_pages_neither_skip_nor_repeat_what_stays() -> None:
    entries = [f"{number:02d}" for number in range(10)]
    first, cursor = page_of(entries, 4, None, key=lambda entry: (entry,))
    entries.remove("03")
    entries.insert(0, "00a")
    second, _ = page_of(sorted(entries), 4, cursor, key=lambda entry: (entry,))
    assert (first, second) == (["00", "01", "02", "03"], ["04", "05", "06", "07"])


def test_a_slide_says_what_a_viewer_needs(client: TestClient, slide: dict[str, Any]) -> None:
    said = client.get(f"/v1/slides/{slide['id']}").json()
    assert (said["width"], said["height"], said["mpp_x"], said["bounds"]) == (WIDTH, HEIGHT, 0.5, None)
    assert (said["min_level"], said["max_level"], said["name"]) == (0, 11, "ramp.tif")
    assert "properties" not in said


@pytest.mark.parametrize(("below", "column", "row"), [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 1, 0), (2, 0, 0), (5, 0, 0)])
def test_tiles_have_the_pixels_of_their_place(
    client: TestClient, slide: dict[str, Any], below: int, column: int, row: int
) -> None:
    tile = picture(client.get(f"/v1/slides/{slide['id']}/tiles/{11 - below}/{column}_{row}.jpg"))
    scale = 1 << below
    box = TileGrid(WIDTH, HEIGHT, 11 - below).box(column, row)
    assert box is not None
    assert tile.shape[:2] == (box[3] - box[1], box[2] - box[0])
    y, x = np.mgrid[box[1] : box[3], box[0] : box[2]]
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(tile[..., 0][inner], ((x + 0.5) * scale * 255 / WIDTH)[inner], atol=2 * scale / 4 + 4)
    np.testing.assert_allclose(tile[..., 1][inner], ((y + 0.5) * scale * 255 / HEIGHT)[inner], atol=2 * scale / 4 + 4)


@pytest.mark.parametrize("size", [(1, 1), (511, 512), (513, 2000), (100_003, 77)])
def test_the_tiles_of_a_level_cover_it_with_one_pixel_of_overlap(size: tuple[int, int]) -> None:
    for level in range(max_level(*size) + 1):
        grid = TileGrid(*size, level)
        columns, rows = (-(-side // TILE_SIZE) for side in grid.size)
        assert grid.box(columns, 0) is None
        assert grid.box(0, rows) is None
        boxes = [grid.box(column, 0) for column in range(columns)]
        assert boxes[0] is not None
        assert boxes[-1] is not None
        assert (boxes[0][0], boxes[-1][2]) == (0, grid.size[0])
        for before, after in itertools.pairwise(boxes):
            assert before is not None
            assert after is not None
            assert before[2] - after[0] == 2 * OVERLAP


def test_what_is_no_tile_is_404_and_what_is_no_slide_422(
    client: TestClient, slide: dict[str, Any], settings: ServiceSettings
) -> None:
    base = f"/v1/slides/{slide['id']}"
    for tile in ("11/3_0", "11/0_3", "12/0_0", "2000000000/0_0", "0/1_0", "0/2147483648_0"):
        assert client.get(f"{base}/tiles/{tile}.jpg").status_code in (404, 422)
    assert client.get(f"{base}/tiles/11/3_0.jpg").json()["detail"] == "the slide has no such tile"
    for other in ("0" * 32, "..", "case-7%2Framp.tif", "ramp.tif"):
        assert client.get(f"/v1/slides/{other}/thumbnail.jpg").status_code == 404
    (settings.slide_roots[0] / "case-7" / "bad.svs").write_text("not a slide")
    os.utime(settings.slide_roots[0])
    client.app.state.backend.slides.folders._looked = -100.0  # type: ignore[attr-defined]
    bad = next(item for item in client.get("/v1/slides").json()["items"] if item["name"] == "bad.svs")
    answer = client.get(f"/v1/slides/{bad['id']}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("bad.svs: ")
    assert "case-7" not in answer.text


def test_a_browser_may_keep_pictures_until_the_slide_changes(
    client: TestClient, slide: dict[str, Any], settings: ServiceSettings
) -> None:
    path = f"/v1/slides/{slide['id']}/thumbnail.jpg?width=64"
    first = client.get(path)
    assert picture(first).shape == (50, 64, 3)
    assert first.headers["cache-control"].startswith("private")
    assert client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    os.utime(settings.slide_roots[0] / "case-7" / "ramp.tif", (1, 1))
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.headers["etag"] == first.headers["etag"]) == (200, False)


def test_a_raster_says_its_scores_and_its_place(client: TestClient, send: Any, make_bag: Any) -> None:
    scores = np.linspace(0, 1, 60)
    made = send(make_bag(scores, columns=20)).json()
    place = client.get(f"/v1/predictions/{made['id']}/raster.json").json()
    assert (place["columns"], place["rows"], place["x"], place["y"]) == (20, 3, 0, 0)
    assert (place["width"], place["height"], place["threshold"], place["classes"]) == (20 * 128, 3 * 128, 0.5, [])
    answer = client.get(f"/v1/predictions/{made['id']}/raster.png")
    grey, alpha = np.moveaxis(np.asarray(Image.open(io.BytesIO(answer.content))), -1, 0)
    assert (alpha == 255).all()
    np.testing.assert_allclose((grey.astype(float).ravel() - 1) / 254, scores, atol=0.5 / 254 + 1e-3)
    refused = client.get(f"/v1/predictions/{made['id']}/raster.png", params={"class": "breast/tumour"})
    assert (refused.status_code, "without scores by class" in refused.json()["detail"]) == (422, True)
    assert client.get(f"/v1/predictions/{made['id']}/raster.png", params={"class": "x"}).status_code == 422


def test_the_scores_of_a_class_make_a_raster_of_their_own() -> None:
    by_class = np.array([[255, 0], [51, 204], [0, 255]], np.uint8)
    prediction = Prediction(
        slide_id="s",
        mode="class-incremental",
        task="breast",
        label="tumour",
        classes=("breast/normal", "breast/tumour"),
        probabilities=np.array([0.1, 0.9]),
        instance_scores=np.array([0, 0.8, 1], np.float32),
        threshold=0.5,
        positive=True,
        coords=np.array([[0, 0], [128, 0], [384, 0]]),
        geometry=TileGeometry(64, 0.5, 0.5, 0.25, 0.25, 1000, 1000),
        class_scores=by_class,
    )
    again = Prediction.from_dict(prediction.to_dict())
    raster, _ = score_raster(again, again.scores_of("breast/normal"))
    np.testing.assert_allclose(raster, [[1, 0.2, np.nan, 0]], atol=1e-6)
    grey, alpha = np.moveaxis(np.asarray(raster_picture(raster)), -1, 0)
    assert grey.tolist() == [[255, 52, 0, 1]]
    assert alpha.tolist() == [[255, 255, 0, 255]]


def test_the_page_allows_only_its_own_parts(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "http" not in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text
    names = {path.name for path in (ROOT / "service" / "viewer").glob("*.js")}
    for name in names:
        part = client.get(f"/viewer/{name}")
        assert (part.status_code, part.headers["content-type"].split(";")[0]) == (200, "text/javascript")
        assert client.get(f"/viewer/{name}", headers={"If-None-Match": part.headers["etag"]}).status_code == 304
    for name in ("index.html", "..%2Fapp.py", "%2e%2e", "missing.js"):
        assert client.get(f"/viewer/{name}").status_code == 404
    tables = client.get("/viewer/colour-maps.json").json()
    assert next(iter(tables)) == "viridis"
    assert {len(colours) for colours in tables.values()} == {256}
