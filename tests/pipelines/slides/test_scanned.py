"""Pictures of slides that lie on a canvas far larger than what was scanned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.slides.scanned import picture_pieces, scanned_areas
from pipelines.slides.slide import open_slide
from tests.pipelines.small_slides import tissue_picture, write_slide
from tests.pipelines.vendor_slides import write_leica

PIXELS = tissue_picture(1024, 768, (128, 128, 896, 640))
PLACES = [(1000, 500), (2701, 2003)]


@pytest.mark.parametrize("side", [200, 3000, 4000])
def test_two_regions_far_apart(tmp_path: Path, read_pixels: list[int], side: int) -> None:
    """Only they are read, and they stand on white where they belong; shrunk by averages, by a filter, and not at all."""
    path = write_leica(tmp_path / "s.scn", PIXELS, *PLACES, canvas=(4000, 3000))
    with open_slide(path) as slide:
        assert slide.bounds == (1000, 500, 2725, 2271)
        picture = slide.thumbnail(side)
    assert sum(read_pixels) < 2 * 1.3 * PIXELS.shape[0] * PIXELS.shape[1]
    canvas = Image.new("RGB", (4000, 3000), "white")
    for place in PLACES:
        canvas.paste(Image.fromarray(PIXELS), place)
    expected = np.asarray(canvas.resize(picture.size, Image.Resampling.BOX), int)
    assert picture.size == (side, side * 3 // 4)
    difference = np.abs(np.asarray(picture, int) - expected)
    white = (expected == 255).all(axis=2)
    assert (np.asarray(picture)[white] == 255).mean() > 0.999  # the other filter reaches further
    assert difference.max(axis=2)[~white].mean() < 4  # JPEG


def test_bounds_alone(tmp_path: Path, read_pixels: list[int]) -> None:
    pixels = np.full((1500, 2000, 3), 255, np.uint8)
    pixels[400:900, 600:1300] = np.random.default_rng(0).integers(0, 255, (500, 700, 3))
    with open_slide(write_slide(tmp_path / "s.tif", pixels)) as slide:
        whole = np.asarray(slide.thumbnail(777))
        assert read_pixels == [2000 * 1500]
        bounds = {"x": "600", "y": "400", "width": "700", "height": "500"}
        slide.properties = {f"openslide.bounds-{name}": value for name, value in bounds.items()}
        assert np.array_equal(np.asarray(slide.thumbnail(777)), whole)
    assert read_pixels[1] < 1.1 * 700 * 500


def properties(*boxes: tuple[object, object, object, object], name: str = "region[{}].") -> dict[str, str]:
    sides = ("x", "y", "width", "height")
    return {
        f"openslide.{name.format(number)}{side}": str(value)
        for number, box in enumerate(boxes)
        for side, value in zip(sides, box, strict=True)
    }


def test_which_areas_were_scanned() -> None:
    bounds = properties((5, 6, 50, 40), name="bounds-")
    assert scanned_areas({}, (100, 80)) == [(0, 0, 100, 80)]
    assert scanned_areas(bounds, (100, 80)) == [(5, 6, 55, 46)]
    two = properties((5, 6, 10, 10), (40, 30, 15, 16))
    assert scanned_areas(bounds | two, (100, 80)) == [(5, 6, 15, 16), (40, 30, 55, 46)]
    beyond = properties((-5, 70, 20, 20), (200, 0, 10, 10))
    assert scanned_areas(beyond, (100, 80)) == [(0, 70, 15, 80)]
    for nonsense in (properties((0, 0, 0, 0), name="bounds-"), properties(("a", 1, 1, 1)), {"openslide.bounds-x": "1"}):
        assert scanned_areas(nonsense, (100, 80)) == [(0, 0, 100, 80)]


def test_pieces_cover_the_areas_once_and_are_small() -> None:
    """A level that is wider than what OpenSlide keeps of a row of tiles: pieces are read down one column after another."""
    full, size = (400_000, 90_000), (4096, 922)
    [area] = areas = [(100_000, 7, 390_000, 80_000)]
    seen = np.zeros(size[::-1], int)
    columns, scale = [], full[0] / size[0]
    for left, top, right, bottom in picture_pieces(areas, full, full, size):
        seen[top:bottom, left:right] += 1
        columns.append(left)
        assert (right - left) * (bottom - top) * scale * scale <= 1.01 * (16 << 20)
        assert (right - left) * scale <= 8192
    assert columns == sorted(columns)
    assert seen.max() == 1
    inside = np.argwhere(seen)
    expected = np.array([[area[1], area[0]], [area[3], area[2]]]) / scale
    assert np.abs([inside.min(axis=0), inside.max(axis=0) + 1] - expected).max() <= 3
    assert seen.sum() == np.prod(inside.max(axis=0) + 1 - inside.min(axis=0))
