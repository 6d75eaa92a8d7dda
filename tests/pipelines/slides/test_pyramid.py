"""How coarse a level truly is, and that every reader of a slide finds its pixels in their place."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.slides.pyramid import Stored, true_levels
from pipelines.slides.slide import Slide, open_slide
from pipelines.tiles.decode import decoded_batches
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import TissueMask
from service.slides.pictures import TileGrid, draw_tile, read_facts
from tests.pipelines.vendor_slides import TILE, write_dicom

EVERYWHERE = TissueMask(np.ones((8, 8), bool), 1e6, 1e6, 1.0)
WIDTH, HEIGHT = 2000, 1320
DARKEST, RANGE = 30, 200


def places(width: int, height: int) -> np.ndarray:
    """A picture whose red says the column and whose green says the row."""
    x = np.arange(width)[None, :] * RANGE / width + DARKEST
    y = np.arange(height)[:, None] * RANGE / height + DARKEST
    return np.stack([x.repeat(height, 0), y.repeat(width, 1), np.full((height, width), 128.0)], 2).astype(np.uint8)


def halves(pixels: np.ndarray, count: int) -> list[np.ndarray]:
    levels = [pixels]
    for _ in range(count - 1):
        height, width = (side // 2 for side in levels[-1].shape[:2])
        blocks = levels[-1][: height * 2, : width * 2].reshape(height, 2, width, 2, 3)
        levels.append(blocks.mean(axis=(1, 3)).round().astype(np.uint8))
    return levels


def filled(pixels: np.ndarray, tile: int = TILE, value: int = 255) -> np.ndarray:
    """The picture filled up to whole tiles."""
    height, width = pixels.shape[:2]
    whole = np.full((-(-height // tile) * tile, -(-width // tile) * tile, 3), value, np.uint8)
    whole[:height, :width] = pixels
    return whole


Stated = Callable[[int], float | None]
"""From a level's number to the micrometres per pixel that its page states."""


def write_levels(path: Path, levels: Sequence[np.ndarray], mpp: Stated, compression: str = "zlib") -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            side = mpp(number)
            stated: dict[str, Any] = {} if side is None else {"resolution": (1e4 / side,) * 2, "resolutionunit": "CENTIMETER"}
            kind: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": compression, "metadata": None}
            tiff.write(level, subfiletype=int(number > 0), **kind, **stated)
    return path


def own(number: int) -> float:
    return 0.25 * 2.0**number


def misplaced(slide: Slide, target_mpp: float) -> float:
    """How many level-0 pixels the pixels of planned tiles lie beside the tiles' places, at most."""
    plan = plan_tiles(slide, EVERYWHERE, tile_size=64, target_mpp=target_mpp, min_tissue=0)
    tiles = np.concatenate(list(decoded_batches(slide, plan, 64)))
    seen = (tiles.mean(axis=(1, 2))[:, :2] - DARKEST + 0.5) / RANGE * slide.dimensions
    return float(np.abs(seen - (plan.coords + 32 * target_mpp / slide.mpp_x)).max())


def colours_off(picture: np.ndarray, left: float, top: float, scale: float, size: tuple[int, int]) -> float:
    """How far a picture's colours are from those of its place; the border, which JPEG smears, is left out."""
    x = (left + np.arange(picture.shape[1]) + 0.5) * scale * RANGE / size[0] + DARKEST - 0.5
    y = (top + np.arange(picture.shape[0]) + 0.5) * scale * RANGE / size[1] + DARKEST - 0.5
    off = np.maximum(np.abs(picture[..., 0] - x[None]), np.abs(picture[..., 1] - y[:, None]))
    return float(off[:-8, :-8].max())


def check_all_readers(path: Path, size: tuple[int, int]) -> None:
    """Tiles, thumbnail and service tiles show the pixels of their place, to a few colour steps."""
    step = max(size) / RANGE
    with open_slide(path, mpp=0.25) as slide:
        for target in (0.25, 0.5, 1.0, 2.0):
            assert misplaced(slide, target) < 2 * step, target
        thumbnail = np.asarray(slide.thumbnail(300), float)
        assert colours_off(thumbnail, 0, 0, size[0] / thumbnail.shape[1], size) < 5
    facts = read_facts(path)
    for level in range(facts.max_level - 5, facts.max_level + 1):
        grid = TileGrid(*size, level)
        for column, row in ((0, 0), (1, 1), (3, 2)):
            box, drawn = grid.box(column, row), draw_tile(path, level, column, row)
            if box is not None and drawn is not None and min(box[2] - box[0], box[3] - box[1]) > 16:
                picture = np.asarray(Image.open(io.BytesIO(drawn)), float)
                assert colours_off(picture, box[0], box[1], grid.scale, size) < 12, (level, column, row)


@pytest.mark.parametrize("compression", ["zlib", "jpeg"])
@pytest.mark.parametrize("value", [255, 0])
def test_levels_filled_up_to_whole_tiles(tmp_path: Path, compression: str, value: int) -> None:
    levels = halves(places(WIDTH, HEIGHT), 4)
    padded = [levels[0], *(filled(level, value=value) for level in levels[1:])]
    path = write_levels(tmp_path / "s.tif", padded, own, compression)
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1, 2, 4, 8)
        assert slide.level_dimensions[1:] == ((1000, 660), (500, 330), (250, 165))
    check_all_readers(path, (WIDTH, HEIGHT))


def test_dicom_levels_filled_up_to_whole_tiles(tmp_path: Path) -> None:
    levels = halves(places(WIDTH, HEIGHT), 4)
    [path, *_] = write_dicom(tmp_path / "s", [levels[0], *map(filled, levels[1:])], (0.25, 0.25))
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1, 2, 4, 8)
    check_all_readers(path, (WIDTH, HEIGHT))


@pytest.mark.parametrize(
    ("stated", "size"),
    [
        (lambda number: 0.25, (WIDTH, HEIGHT)),  # a copy of level 0's, as libvips writes it
        (lambda number: 0.25 if number == 0 else None, (WIDTH, HEIGHT)),
        (lambda number: 0.25 if number == 0 else 25_400 / 72, (WIDTH, HEIGHT)),
        (lambda number: None, (WIDTH, HEIGHT)),
        (lambda number: None, (1800, 1800)),  # the sides agree, since both are filled up alike
        (lambda number: 0.25 * 3**number, (WIDTH, HEIGHT)),
    ],
)
def test_a_level_whose_factor_cannot_be_known_is_not_read(tmp_path: Path, stated: Stated, size: tuple[int, int]) -> None:
    levels = halves(places(*size), 4)
    path = write_levels(tmp_path / "s.tif", [levels[0], *map(filled, levels[1:])], stated)
    with open_slide(path, mpp=0.25) as slide:
        assert all(math.isinf(downsample) for downsample in slide.level_downsamples[1:])
        assert [level["downsample"] for level in slide.facts()["levels"]] == [1.0, None, None, None]
    check_all_readers(path, size)


@pytest.mark.parametrize("stated", [own, lambda _: 0.25, lambda _: None, lambda number: 0.25 if number == 0 else 352.8])
def test_levels_that_are_not_filled_up_are_read(tmp_path: Path, stated: Stated) -> None:
    path = write_levels(tmp_path / "s.tif", halves(places(1999, 1321), 4), stated)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.level_downsamples == pytest.approx((1, 2, 4, 8), rel=0.01)
        assert slide.level_for(8.1) == 3
    check_all_readers(path, (1999, 1321))


def test_the_rounded_side_of_a_narrow_slide(tmp_path: Path) -> None:
    """16,000 x 250 px: OpenSlide's mean of 16,000 / 500 and 250 / 7 is 33.9, which would be 59 level-0 px a tile off."""
    levels = [np.ascontiguousarray(places(16_000, 250)[::step, ::step][: 250 // step]) for step in (1, 32)]
    path = write_levels(tmp_path / "s.tif", levels, lambda number: None)
    with open_slide(path, mpp=0.25) as slide:
        assert slide._handle.level_downsamples[1] > 33
        assert slide.level_downsamples[1] == pytest.approx(32)


def test_one_of_two_levels_of_the_same_size_is_not_read(tmp_path: Path) -> None:
    levels = halves(places(1024, 1024), 3)
    path = write_levels(tmp_path / "s.tif", [levels[0], levels[1], 255 - levels[1], levels[2]], lambda number: None)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.level_downsamples == (1, math.inf, math.inf, 4)


def test_what_openslide_knows_of_a_format_stands() -> None:
    """MIRAX levels are larger than their share of level 0: OpenSlide reads the factor from the index."""
    stored = [Stored((1000, 800), 1.0), Stored((540, 430), 2.0)]
    [_, level] = true_levels(stored, "mirax")
    assert (level.downsample, level.size, level.extent) == (2.0, (500, 400), (500, 400))
    assert true_levels(stored, "generic-tiff")[1].downsample == math.inf


@given(
    st.tuples(st.integers(2000, 90_000), st.integers(2000, 90_000)),
    st.integers(1, 7),
    st.sampled_from([math.floor, math.ceil, round]),
    st.sampled_from(["own", "copy", "none"]),
)
def test_a_rounded_level_is_placed_to_a_pixel(
    whole: tuple[int, int], power: int, rounded: Callable[[float], int], says: str
) -> None:
    factor = 2**power
    size = (rounded(whole[0] / factor), rounded(whole[1] / factor))
    mpps = {"own": (0.25, 0.25 * factor), "copy": (0.25, 0.25), "none": (None, None)}[says]
    stored = [
        Stored(of, ratio, None if mpp is None else (mpp, mpp), (240, 240))
        for of, mpp, ratio in ((whole, mpps[0], 1.0), (size, mpps[1], (whole[0] / size[0] + whole[1] / size[1]) / 2))
    ]
    level = true_levels(stored, "generic-tiff")[1]
    if math.isinf(level.downsample):  # whole tiles and no whole ratio: it might have been filled up
        assert says != "own"
        assert size[0] % 240 == size[1] % 240 == 0
        return
    for side, full in zip(size, whole, strict=True):
        assert abs(full / level.downsample - side) <= 1 + 1e-6
    assert says != "own" or level.downsample == factor


@given(st.tuples(st.integers(2000, 90_000), st.integers(2000, 90_000)), st.integers(1, 7))
def test_a_filled_level_is_placed_exactly_or_not_read(whole: tuple[int, int], power: int) -> None:
    factor, tile = 2**power, 256
    size = tuple(-(-(side // factor) // tile) * tile for side in whole)
    ratio = (whole[0] / size[0] + whole[1] / size[1]) / 2
    stored = [Stored(whole, 1.0, (0.25, 0.25), (tile, tile)), Stored(size, ratio, (0.25 * factor,) * 2, (tile, tile))]
    level = true_levels(stored, "generic-tiff")[1]
    assert level.downsample == factor
    assert all(abs(full / factor - side) <= 1 for full, side in zip(whole, level.size, strict=True))
    silent = [Stored(whole, 1.0, None, (tile, tile)), Stored(size, ratio, None, (tile, tile))]
    unknown = true_levels(silent, "generic-tiff")[1]
    for side, full in zip(size, whole, strict=True):
        assert math.isinf(unknown.downsample) or abs(full / unknown.downsample - side) <= 1 + 1e-6
