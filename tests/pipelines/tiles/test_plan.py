from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.errors import SlideError
from pipelines.slides.slide import Slide, open_slide
from pipelines.tiles.plan import grid_positions, plan_tiles, read_level, tile_geometry, too_small
from pipelines.tissue import TissueMask, find_tissue
from tests.pipelines.small_slides import read_tile, tissue_picture, write_slide

EVERYWHERE = TissueMask(np.ones((1, 1), bool), 1e6, 1e6, 0.0)


@given(st.integers(0, 400_000), st.floats(20, 3000), st.floats(0.1, 1.0))
def test_positions_do_not_drift(length: int, tile: float, share: float) -> None:
    stride = max(5.0, tile * share)
    positions = grid_positions(length, tile, stride)
    assert positions.dtype == np.int64
    assert (np.abs(positions - np.arange(len(positions)) * stride) <= 0.5).all()
    assert (positions >= 0).all()
    assert (positions + tile <= length + 0.5).all()
    following = round(len(positions) * stride)
    assert following + tile > length + 0.5


def test_grid_of_a_wide_slide() -> None:
    tile = 256 * 0.5 / 0.2527
    positions = grid_positions(200_000, tile, tile)
    assert len(positions) == int(200_000 / tile)
    assert positions[-1] == round((len(positions) - 1) * tile)
    assert positions[-1] != (len(positions) - 1) * round(tile)


@pytest.mark.parametrize(("own", "levels"), [(0.2527, 1), (0.2527, 3), (0.11, 3), (0.499, 1), (0.54, 2)])
def test_field_of_view_on_a_gradient(tmp_path: Path, own: float, levels: int) -> None:
    """A picture whose red rises with x and green with y: each tile must show the values of its place and span."""
    side = 1280
    ramp = np.linspace(0, 255, side)
    pixels = np.zeros((side, side, 3))
    pixels[..., 0], pixels[..., 1] = ramp[None, :], ramp[:, None]
    path = write_slide(tmp_path / "ramp.tif", pixels.round().astype(np.uint8), mpp=own, levels=levels)
    with open_slide(path, mpp=own) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=128, target_mpp=0.5, min_tissue=0.0)
        span = 128 * 0.5 / own
        assert plan.geometry.tile_width == pytest.approx(span)
        assert slide.level_downsamples[plan.level] * own <= 0.5 * 1.01 or plan.level == 0
        for index in (0, len(plan.coords) // 2, len(plan.coords) - 1):
            tile = read_tile(slide, plan, index)
            assert tile.shape == (128, 128, 3)
            for axis in (0, 1):
                centres = plan.coords[index][axis] + (np.arange(128) + 0.5) * span / 128 - 0.5
                seen = tile[..., axis].mean(axis=axis)
                inner = slice(2, -2)
                assert np.abs(seen - centres * 255 / (side - 1))[inner].max() < 1.2


def test_coarser_level_is_used_where_it_is_fine_enough(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        for target, level in ((0.5, 0), (0.99, 0), (0.995, 1), (1.0, 1), (1.9, 1), (2.0, 2), (4.0, 2)):
            assert plan_tiles(slide, EVERYWHERE, tile_size=32, target_mpp=target).level == level


@given(
    own=st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.5)),
    downsamples=st.lists(st.floats(1.5, 40), max_size=5, unique=True),
    target=st.floats(0.5, 8),
)
@settings(max_examples=100, deadline=None)
def test_level_is_the_coarsest_within_one_percent(own: tuple[float, float], downsamples: list[float], target: float) -> None:
    """On pixels that are not square the coarser axis decides."""
    slide = SimpleNamespace(mpp_x=own[0], mpp_y=own[1], level_downsamples=(1.0, *sorted(downsamples)))
    slide.level_for = lambda downsample: Slide.level_for(cast(Slide, slide), downsample)
    level = read_level(cast(Slide, slide), target)
    coarseness = [max(own) * downsample / target for downsample in slide.level_downsamples]
    assert level == 0 or coarseness[level] <= 1.01 + 1e-9
    assert all(later > 1.01 - 1e-9 for later in coarseness[level + 1 :])


def test_five_percent_coarser_is_enlarged_and_recorded(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue_picture(600, 600, (0, 0, 600, 600)))
    with open_slide(path, mpp=0.525) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=0.5)
        assert plan.geometry.interpolated
        assert read_tile(slide, plan, 0).shape == (256, 256, 3)
        assert plan.geometry.tile_width == pytest.approx(256 * 0.5 / 0.525)
    with open_slide(path, mpp=0.504) as slide:
        assert not tile_geometry(slide, tile_size=256, target_mpp=0.5).interpolated


def test_thirty_percent_coarser_is_refused_with_a_remedy(slide_path: Path) -> None:
    with (
        open_slide(slide_path, mpp=0.65) as slide,
        pytest.raises(SlideError, match=r"--target-mpp of at least 0\.65") as caught,
    ):
        plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=0.5)
    assert caught.value.stage == "mpp"


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    """Tissue that is square in micrometres stays square in the tile."""
    path = write_slide(tmp_path / "oblong.tif", tissue_picture(1024, 512, (0, 0, 512, 256)), mpp=(0.25, 0.5))
    with open_slide(path) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=1.0)
        assert plan.coords.tolist() == [[0, 0]]
        stained = read_tile(slide, plan, 0)[..., 1] < 160
    assert stained[:127, :127].all()
    assert not stained[129:].any()
    assert not stained[:, 129:].any()


def test_slide_smaller_than_a_tile_has_none(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "small.tif", tissue_picture(300, 200, (0, 0, 300, 200)))
    with open_slide(path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=256, target_mpp=0.5)
    assert plan.coords.shape == (0, 2)
    assert plan.tissue.shape == (0,)


@pytest.mark.parametrize(
    ("size", "tile", "mpp", "said"),
    [
        ((300, 200), 256, 0.5, "smaller than a tile: 300 x 200 px at 0.5 um/px, a tile has 256 x 256 of them: --tile-size 200"),
        ((400, 255), 256, 0.5, "a tile has 256 x 256 of them: --tile-size 255"),
        ((300, 200), 256, 1.0, "a tile has 512 x 512 of them: --tile-size 100"),
        ((300, 256), 256, 0.5, None),
        ((300, 255), 255, 0.5, None),
    ],
)
def test_what_is_said_of_a_slide_smaller_than_a_tile(
    tmp_path: Path, size: tuple[int, int], tile: int, mpp: float, said: str | None
) -> None:
    with open_slide(write_slide(tmp_path / "small.tif", tissue_picture(*size))) as slide:
        found = too_small(tile_geometry(slide, tile_size=tile, target_mpp=mpp))
    assert (found is None) == (said is None)
    assert said is None or said in str(found)


def test_kept_tiles_are_row_major_and_on_tissue(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=256, target_mpp=0.5)
    expected = [[x, y] for y in (256, 512, 768) for x in (256, 512, 768, 1024)]
    assert plan.coords.tolist() == expected
    assert (plan.tissue > 0.9).all()


def test_overlap_shortens_the_stride(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=0.5, overlap=56)
    assert np.unique(plan.coords[:, 0]).tolist() == [0, 200, 400, 600, 800, 1000, 1200]


def test_bounds_of_the_slide_are_recorded(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        slide.bounds = (10, 20, 1000, 900)
        geometry = tile_geometry(slide, tile_size=256, target_mpp=0.5)
    assert (geometry.has_bounds, geometry.bounds_x, geometry.bounds_y) == (True, 10, 20)


def test_real_slide_tile_matches_openslide(real_slide: Callable[[str], Path]) -> None:
    with open_slide(real_slide("CMU-1-Small-Region.svs")) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=256, target_mpp=slide.mpp_x)
        index = len(plan.coords) // 2
        x, y = plan.coords[index]
        assert np.array_equal(read_tile(slide, plan, index), np.asarray(slide.read_region((int(x), int(y)), 0, (256, 256))))
