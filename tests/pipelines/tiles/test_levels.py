"""Coarser scales over a tile grid: every tile lies in its parent, and nothing else is planned."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from comel.errors import SlideError
from pipelines.extraction.settings import ExtractSettings
from pipelines.slides.slide import Slide, open_slide
from pipelines.tiles.levels import Scale, covering_positions, plan_scales
from pipelines.tiles.plan import grid_positions, plan_tiles
from pipelines.tissue import TissueMask, find_tissue
from tests.pipelines.small_slides import read_tile, tissue_picture, write_slide

EVERYWHERE = TissueMask(np.ones((1, 1), bool), 1e6, 1e6, 0.0)


@dataclass
class Shape:
    """What planning asks of a slide."""

    dimensions: tuple[int, int]
    mpp_x: float
    mpp_y: float
    bounds: None = None
    path: Path = Path("shape.svs")

    def level_for(self, downsample: float) -> int:
        return 0


def as_slide(width: int, height: int, mpp_x: float, mpp_y: float) -> Slide:
    return cast(Slide, Shape((width, height), mpp_x, mpp_y))


def planned(
    slide: Slide,
    mpps: tuple[float, ...],
    *,
    tile_size: int,
    overlap: int = 0,
    tissue: TissueMask = EVERYWHERE,
    share: float = 0.0,
) -> list[Scale]:
    finest = plan_tiles(slide, tissue, tile_size=tile_size, target_mpp=mpps[0], overlap=overlap, min_tissue=share)
    return plan_scales(slide, tissue, finest, mpps[1:])


def check_nesting(scales: list[Scale]) -> None:
    """The invariants that the bag format promises, by comparing rectangles one to one."""
    assert scales[-1].parent is None
    for finer, coarser in pairwise(scales):
        assert finer.parent is not None
        parents = coarser.plan.coords[finer.parent]
        fine, coarse = finer.plan.geometry, coarser.plan.geometry
        sizes = ((fine.tile_width, coarse.tile_width), (fine.tile_height, coarse.tile_height))
        for axis, (own, parents_size) in enumerate(sizes):
            start, parents_start = finer.plan.coords[:, axis], parents[:, axis]
            # Both are rounded to whole pixels one by one, so they may be off by half a pixel each.
            assert (start >= parents_start - 1).all()
            assert (start + own <= parents_start + parents_size + 1.5).all()
        # Every coarser tile holds a kept finer one, lies on the slide, and stands in row-major order, once.
        assert set(finer.parent.tolist()) == set(range(len(coarser.plan.coords)))
        assert (coarser.plan.coords >= 0).all()
        assert (coarser.plan.coords[:, 0] + coarse.tile_width <= coarse.level0_width + 0.5).all()
        assert (coarser.plan.coords[:, 1] + coarse.tile_height <= coarse.level0_height + 0.5).all()
        order = [tuple(place) for place in coarser.plan.coords[:, ::-1].tolist()]
        assert order == sorted(set(order))


@given(
    size=st.tuples(st.integers(400, 3000), st.integers(400, 3000)),
    mpp=st.tuples(st.floats(0.15, 0.6), st.floats(0.15, 0.6)),
    target=st.floats(0.55, 0.7),
    ratios=st.lists(st.integers(2, 3), min_size=1, max_size=3),
    tile_size=st.integers(16, 40),
    overlap=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_tile_lies_in_its_parent(
    size: tuple[int, int], mpp: tuple[float, float], target: float, ratios: list[int], tile_size: int, overlap: float, seed: int
) -> None:
    """Any slide, pixels that are not square, any overlap, any kept tiles."""
    mpps = tuple(target * float(factor) for factor in np.cumprod([1, *ratios]))
    slide = as_slide(*size, *mpp)
    assume(min(size) * min(mpp) >= tile_size * mpps[-1])
    mask = np.random.default_rng(seed).random((9, 9)) < 0.2
    tissue = TissueMask(mask, size[0] / 9, size[1] / 9, 0.0)
    check_nesting(planned(slide, mpps, tile_size=tile_size, overlap=int(overlap * tile_size), tissue=tissue, share=0.3))


def test_children_are_the_blocks_of_the_grid() -> None:
    """Away from the edges a coarser tile covers exactly its k x k block, on the same origin."""
    slide = as_slide(4096, 2048, 0.5, 0.5)
    finest, coarser = planned(slide, (0.5, 1.0), tile_size=256)
    assert coarser.plan.coords.tolist() == [[x, y] for y in range(0, 2048, 512) for x in range(0, 4096, 512)]
    assert finest.parent is not None
    for row, place in enumerate(coarser.plan.coords):
        children = finest.plan.coords[finest.parent == row]
        assert children.tolist() == [[place[0] + x, place[1] + y] for y in (0, 256) for x in (0, 256)]


def test_at_the_edge_a_parent_is_moved_back_onto_the_slide() -> None:
    """1,300 px hold five tiles of 256 px but two of 512: the third one ends at the edge and still holds the fifth."""
    finest, coarser = planned(as_slide(1300, 600, 0.5, 0.5), (0.5, 1.0), tile_size=256)
    assert sorted(set(coarser.plan.coords[:, 0].tolist())) == [0, 512, 788]
    assert finest.parent is not None
    last = finest.plan.coords[:, 0] == 1024
    assert (coarser.plan.coords[finest.parent[last], 0] == 788).all()
    check_nesting([finest, coarser])


@given(st.integers(100, 5000), st.floats(20, 90), st.integers(2, 5), st.floats(0.1, 1))
@settings(max_examples=100, deadline=None)
def test_covering_positions_are_the_grid_and_at_most_one_more(length: int, tile: float, ratio: int, share: float) -> None:
    stride = max(5.0, tile * share)
    finer = len(grid_positions(length, tile, stride))
    regular = grid_positions(length, tile * ratio, stride * ratio)
    covering = covering_positions(finer, ratio, length, tile * ratio, stride * ratio)
    assert covering[: len(regular)].tolist() == regular.tolist()
    assert len(covering) - len(regular) in (0, 1)
    assert (np.diff(covering) > 0).all()


def test_slide_smaller_than_a_coarser_tile_is_refused_by_name() -> None:
    slide = as_slide(700, 700, 0.5, 0.5)
    assert len(planned(slide, (0.5, 1.0), tile_size=256)[1].plan.coords) == 1
    with pytest.raises(SlideError, match=r"smaller than one tile of 256 px at 2 um/px; .* without --also-mpp 2") as caught:
        planned(slide, (0.5, 1.0, 2.0), tile_size=256)
    assert caught.value.stage == "tiles"


def test_slide_without_a_tile_has_none_at_any_scale() -> None:
    nowhere = TissueMask(np.zeros((1, 1), bool), 1e6, 1e6, 0.0)
    for side in (100, 700, 4000):
        scales = planned(as_slide(side, side, 0.5, 0.5), (0.5, 1.0, 2.0), tile_size=256, tissue=nowhere, share=0.25)
        assert [scale.plan.coords.shape for scale in scales] == [(0, 2)] * 3
        assert [None if scale.parent is None else len(scale.parent) for scale in scales] == [0, 0, None]


@given(st.tuples(st.floats(0.1, 0.52), st.floats(0.1, 0.52)), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_field_of_view_is_the_same_in_micrometres_on_every_slide(mpp: tuple[float, float], index: int) -> None:
    geometry = planned(as_slide(6000, 6000, *mpp), (0.5, 1.0, 2.0, 4.0), tile_size=64)[index].plan.geometry
    assert geometry.tile_width * mpp[0] == pytest.approx(64 * 0.5 * 2**index)
    assert geometry.tile_height * mpp[1] == pytest.approx(64 * 0.5 * 2**index)
    assert geometry.stride_x * mpp[0] == pytest.approx(geometry.stride_y * mpp[1])


def test_two_runs_plan_the_same(slide_path: Path) -> None:
    runs = []
    for _ in range(2):
        with open_slide(slide_path) as slide:
            runs.append(planned(slide, (0.5, 1.0, 2.0), tile_size=100, overlap=11, tissue=find_tissue(slide), share=0.25))
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one.plan.coords, other.plan.coords)
        assert np.array_equal(one.plan.tissue, other.plan.tissue)
        assert (one.parent is None and other.parent is None) or np.array_equal(one.parent, other.parent)


def test_a_parent_shows_its_children(tmp_path: Path) -> None:
    """Pixels of a tile and of its place within its parent agree, on a slide with levels."""
    path = write_slide(tmp_path / "s.tif", tissue_picture(1100, 900, (100, 100, 700, 500), (650, 480, 1090, 880)), levels=3)
    with open_slide(path) as slide:
        finest, coarser = planned(slide, (0.5, 1.0), tile_size=128)
        assert (finest.plan.level, coarser.plan.level) == (0, 1)
        assert finest.parent is not None
        for row in range(0, len(finest.plan.coords), 7):
            parent = int(finest.parent[row])
            x, y = (finest.plan.coords[row] - coarser.plan.coords[parent]) // 2
            own = read_tile(slide, finest.plan, row).reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
            within = read_tile(slide, coarser.plan, parent)[y : y + 64, x : x + 64].astype(float)
            assert np.abs(own - within).mean() < 2


@pytest.mark.parametrize(("target", "also"), [(0.5, [1.25]), (0.5, [0.5]), (0.5, [0.25]), (0.5, [1.0, 1.5]), (1.0, [2.0, 2.0])])
def test_scales_that_do_not_nest_are_refused(target: float, also: list[float]) -> None:
    with pytest.raises(ValidationError, match=r"is not 2, 3, \.\.\. times the next finer scale"):
        ExtractSettings(target_mpp=target, also_mpp=tuple(also))


def test_scales_are_put_in_order() -> None:
    assert ExtractSettings(target_mpp=0.499, also_mpp=(1.996, 0.998)).also_mpp == (0.998, 1.996)
