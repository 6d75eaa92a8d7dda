from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.situations import MPP, SITUATIONS, Situation, draw_situation
from comel.errors import ConfigError
from pipelines.slides.coverage import area_fraction
from pipelines.slides.slide import open_slide
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import TISSUE_METHODS, TissueMask, find_tissue
from pipelines.tissue.find import segment
from pipelines.tissue.hsv_otsu import _otsu
from pipelines.tissue.ink import INK_COLOURS, find_border, find_ink
from pipelines.tissue.thumbnail import Thumbnail
from tests.pipelines.small_slides import GLASS, tissue_picture, write_slide

METHODS = pytest.mark.parametrize("method", TISSUE_METHODS)


def found_in(pixels: np.ndarray, method: str, mpp: float = 8.0) -> np.ndarray:
    thumbnail = Thumbnail(pixels, mpp, mpp)
    return segment(thumbnail, method, find_ink(thumbnail))


@cache
def drawn(name: str) -> tuple[Situation, Thumbnail, np.ndarray]:
    situation = draw_situation(name, seed=11)
    thumbnail = Thumbnail(situation.pixels, MPP, MPP)
    return situation, thumbnail, find_ink(thumbnail)


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def picture(colour: tuple[int, int, int], noise: int = 2) -> np.ndarray:
    """Glass with a square of a colour in its middle half."""
    random = np.random.default_rng(0)
    pixels = np.full((200, 200, 3), GLASS, int) + random.integers(-noise, noise + 1, (200, 200, 3))
    pixels[50:150, 50:150] = np.array(colour) + random.integers(-noise, noise + 1, (100, 100, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@METHODS
@pytest.mark.parametrize("name", [name for name in SITUATIONS if name != "bare glass"])
def test_drawn_tissue_is_found(method: str, name: str) -> None:
    situation, thumbnail, ink = drawn(name)
    # Saturation alone loses the palest of a blue counterstain.
    hard = situation.ink.any() or (method, name) == ("hsv-otsu", "IHC, negative")
    least = 0.86 if hard else 0.90
    assert overlap(segment(thumbnail, method, ink), situation.usable) > least


@METHODS
def test_holes_stay_open(method: str) -> None:
    situation, thumbnail, ink = drawn("holes")
    whole = draw_situation("H&E", seed=11).tissue
    holes = whole & ~situation.tissue
    assert holes.sum() > 1000
    assert (segment(thumbnail, method, ink) & holes).sum() < 0.1 * holes.sum()


@METHODS
@pytest.mark.parametrize("level", [255, 243, 200])
@pytest.mark.parametrize("noise", [0, 3, 6])
def test_bare_glass_has_no_tissue(method: str, level: int, noise: int) -> None:
    shift = np.random.default_rng(0).integers(-noise, noise + 1, (300, 300, 3))
    assert not found_in(np.clip(level + shift, 0, 255).astype(np.uint8), method).any()
    _, thumbnail, ink = drawn("bare glass")
    assert not segment(thumbnail, method, ink).any()


@METHODS
def test_tinted_glass_has_no_tissue(method: str) -> None:
    assert not found_in(np.full((200, 200, 3), (245, 238, 232), np.uint8), method).any()


@METHODS
@pytest.mark.parametrize("colour", [(170, 80, 160), (228, 205, 222), (225, 210, 226), (90, 40, 120), (150, 110, 70)])
def test_stained_and_pale_tissue_counts(method: str, colour: tuple[int, int, int]) -> None:
    mask = found_in(picture(colour), method)
    assert mask[55:145, 55:145].all()
    assert mask.sum() <= 104**2


@METHODS
def test_a_slide_full_of_tissue_is_not_split(method: str) -> None:
    random = np.random.default_rng(0)
    full = np.where(random.random((300, 300, 1)) < 0.5, (120, 50, 130), (215, 150, 200)) + random.integers(-5, 6, (300, 300, 3))
    assert found_in(full.astype(np.uint8), method).all()


@METHODS
def test_white_that_was_not_scanned_is_no_glass(method: str) -> None:
    """Where a scanner fills in pure white, pinkish glass beside it must not count as pale tissue."""
    pixels = picture((170, 80, 160))
    glass = np.clip(np.array((243, 236, 240)) + np.random.default_rng(1).integers(-2, 3, (200, 200, 3)), 0, 255)
    pixels[:, 150:] = glass[:, 150:]
    pixels[:, :50] = glass[:, :50]
    pixels[:50], pixels[150:] = glass[:50], glass[150:]
    scanned = np.full((300, 300, 3), 255, np.uint8)
    scanned[50:250, 50:250] = pixels
    mask = found_in(scanned, method)
    assert mask[105:195, 105:195].all()
    assert mask.sum() <= 104**2


@pytest.mark.parametrize("colour", INK_COLOURS)
def test_ink_is_found_and_named(colour: str) -> None:
    situation, _, ink = drawn(f"{colour} pen")
    assert overlap(ink > 0, situation.ink) > 0.86
    over_tissue = situation.ink & situation.tissue
    assert (ink > 0)[over_tissue].mean() > 0.9
    named = ink == 1 + INK_COLOURS.index(colour)
    assert named[situation.ink & ~situation.tissue].mean() > 0.95


def test_only_the_inks_that_were_asked_for() -> None:
    _, thumbnail, _ = drawn("blue pen")
    assert not find_ink(thumbnail, ("red", "green", "black")).any()
    assert find_ink(thumbnail, ("blue",)).max() == 3


@pytest.mark.parametrize("name", [name for name in SITUATIONS if "pen" not in name])
def test_stain_is_no_ink(name: str) -> None:
    situation, _, ink = drawn(name)
    assert (ink > 0).mean() < 0.005
    assert not (ink > 0)[situation.tissue].any()


def test_border_is_not_ink_and_a_stroke_is_no_border() -> None:
    situation, thumbnail, ink = drawn("scanner border")
    border = find_border(thumbnail)
    assert border[:30].all()
    assert border[:, -20:].all()
    assert not border[situation.tissue].any()
    assert not ink.any()
    assert not find_border(drawn("black pen")[1]).any()


@METHODS
@pytest.mark.parametrize("mpp", [4.0, 16.0])
def test_sizes_are_in_micrometres(method: str, mpp: float) -> None:
    """A speck below 120 um goes and a piece above it stays, whatever the thumbnail's scale."""
    pixels = np.full((400, 400, 3), GLASS, np.uint8)
    for left, side_um in ((50, 80), (200, 200)):
        side = round(side_um / mpp)
        pixels[50 : 50 + side, left : left + side] = (170, 80, 160)
    mask = found_in(pixels, method, mpp)
    assert not mask[:, :150].any()
    assert mask[:, 150:].any()


def test_unknown_method_names_the_known(slide_path: Path) -> None:
    for method in ("otsu", "mask"):
        with open_slide(slide_path) as slide, pytest.raises(ConfigError, match="hsv-otsu, stain-density"):
            find_tissue(slide, method)


@METHODS
def test_area_is_in_square_millimetres(slide_path: Path, method: str) -> None:
    with open_slide(slide_path) as slide:
        found = find_tissue(slide, method)
    assert found.area_mm2 == pytest.approx(1024 * 768 * 0.25e-6, rel=0.06)


@METHODS
def test_two_runs_find_the_same(tmp_path: Path, method: str) -> None:
    path = write_slide(tmp_path / "s.tif", draw_situation("blue pen", seed=3).pixels, mpp=8.0)
    runs = []
    for _ in range(2):
        with open_slide(path) as slide:
            tissue = find_tissue(slide, method)
            plan = plan_tiles(slide, tissue, tile_size=16, target_mpp=8.0, max_pen=0.1)
        runs.append((tissue.mask, tissue.ink, tissue.fold, plan.coords, plan.tissue))
    assert runs[0][0].any()
    assert all(np.array_equal(one, other) for one, other in zip(*runs, strict=True))


@METHODS
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("PDAC-tru-cut_HE3_ds4.tif", 0.06, 0.10),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.58, 0.68),
        ("kidneyoncocytoma_HE_ds4.tif", 0.47, 0.54),
    ],
)
def test_real_tissue(real_slide: Callable[[str], Path], method: str, name: str, least: float, most: float) -> None:
    with open_slide(real_slide(name), assume_mpp=1.052) as slide:
        found = find_tissue(slide, method)
    assert least < found.mask.mean() < most
    assert found.ink is not None
    assert not found.ink.any()


def test_tiles_under_ink_or_on_folds_are_left_out(slide_path: Path) -> None:
    full = np.ones((120, 160), bool)
    ink, fold = np.zeros((120, 160), np.uint8), np.zeros((120, 160), bool)
    ink[:, 40:60], fold[60:] = 3, True
    tissue = TissueMask(full, 10, 10, 1.0, ink=ink, fold=fold)
    options: dict[str, Any] = {"tile_size": 200, "target_mpp": 0.5}
    with open_slide(slide_path) as slide:
        every = plan_tiles(slide, tissue, **options)
        inked = plan_tiles(slide, tissue, **options, max_pen=0.5)
        flat = plan_tiles(slide, tissue, **options, max_fold=0.0)
    shares = tissue.tile_shares(every.coords, every.geometry)
    assert len(every.coords) == 48
    assert shares["pen"].max() == 1.0
    assert np.array_equal(inked.coords, every.coords[shares["pen"] <= 0.5])
    assert len(inked.coords) == 42
    assert np.array_equal(flat.coords, every.coords[every.coords[:, 1] < 600])


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.3, 40),
    st.floats(0.3, 40),
    st.floats(5, 300),
)
def test_area_fraction_is_the_exact_area(seed: int, scale_x: float, scale_y: float, tile: float) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((7, 9)) < 0.5
    x, y = (int(value) for value in random.integers(0, 200, 2))
    found = float(area_fraction(mask, scale_x, scale_y, np.array([[x, y]]), tile, tile)[0])
    columns = np.clip(np.minimum(np.arange(1, 10) * scale_x, x + tile) - np.maximum(np.arange(9) * scale_x, x), 0, None)
    rows = np.clip(np.minimum(np.arange(1, 8) * scale_y, y + tile) - np.maximum(np.arange(7) * scale_y, y), 0, None)
    assert found == pytest.approx((rows[:, None] * columns[None, :] * mask).sum() / tile**2, abs=1e-5)


def test_picture_helper_has_tissue_where_it_says() -> None:
    pixels = tissue_picture(100, 80, (10, 20, 30, 40))
    assert (pixels[0, 0] == GLASS).all()
    assert np.ptp(pixels[30, 20]) > 50


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60).filter(lambda values: max(values) - min(values) > 1e-3))
def test_otsu_leaves_least_variance_within_its_two_parts(values: list[float]) -> None:
    saturation = np.array(values, np.float32)
    counts, edges = np.histogram(saturation, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2

    def within(split: int) -> float:
        parts = (slice(None, split + 1), slice(split + 1, None))
        return sum(
            float((counts[part] * (centres[part] - np.average(centres[part], weights=counts[part])) ** 2).sum())
            for part in parts
            if counts[part].sum()
        )

    chosen = int(np.abs(centres - _otsu(saturation)).argmin())
    assert within(chosen) <= min(map(within, range(255))) + 1e-6
