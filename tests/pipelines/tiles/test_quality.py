from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.situations import MPP, draw_situation
from pipelines.slides.slide import open_slide
from pipelines.tiles.plan import plan_tiles
from pipelines.tiles.quality import MEASURED, blurriness, tile_quality
from pipelines.tissue import find_tissue
from pipelines.tissue.find import segment
from pipelines.tissue.folds import find_folds
from pipelines.tissue.ink import find_ink
from pipelines.tissue.thumbnail import Thumbnail
from tests.pipelines.small_slides import read_tile


def cells(seed: int, contrast: float = 1.0) -> np.ndarray:
    """Nuclei of sharp outline on stroma, 128 x 128 px."""
    random = np.random.default_rng(seed)
    tile = np.full((128, 128, 3), (215, 165, 200), np.uint8)
    for x, y in random.integers(0, 128, (60, 2)):
        cv2.circle(tile, (int(x), int(y)), int(random.integers(3, 7)), (110, 70, 140), -1, cv2.LINE_AA)
    noisy = 220 + contrast * (tile.astype(float) - 220) + random.normal(0, 1, tile.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def defocused(tile: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(tile, (0, 0), sigma)


@pytest.mark.parametrize("contrast", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_more_defocus_is_more_blur(seed: int, contrast: float) -> None:
    sharp = cells(seed, contrast)
    values = [blurriness(sharp), *(blurriness(defocused(sharp, sigma)) for sigma in (1, 1.5, 2, 3, 4, 6))]
    assert values[0] < 0.35
    assert all(later >= earlier for earlier, later in itertools.pairwise(values))
    assert values[3] > 0.6
    assert values[-1] > 0.95


def test_one_direction_is_enough() -> None:
    moved = cv2.blur(cells(0), (13, 1))
    assert blurriness(moved) > 0.6
    assert blurriness(np.rot90(moved).copy()) == pytest.approx(blurriness(moved))


def test_stain_and_contrast_hardly_matter() -> None:
    one, other = blurriness(cells(0)), blurriness(255 - (255 - cells(0)) // 2)
    assert one == pytest.approx(other, abs=0.08)


@pytest.mark.parametrize("level", [0, 130, 243, 255])
def test_a_flat_tile_says_nothing(level: int) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (128, 128, 3))
    assert blurriness(np.clip(level + noise, 0, 255).astype(np.uint8)) == 0.0


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(16, 40), st.integers(16, 40), st.just(3))), st.randoms())
def test_range_and_order(tiles: np.ndarray, random: object) -> None:
    found = tile_quality(tiles)
    assert tuple(found) == MEASURED
    for values in found.values():
        assert values.shape == (len(tiles),)
        assert values.dtype == np.float32
        assert ((values >= 0) & (values <= 1)).all()
    order = list(range(len(tiles)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert np.array_equal(tile_quality(tiles[order])["blur"], found["blur"][order])


def test_no_tiles() -> None:
    assert tile_quality(np.zeros((0, 64, 64, 3), np.uint8))["blur"].shape == (0,)


def test_real_tiles_are_sharp_until_they_are_blurred(real_slide: Callable[[str], Path]) -> None:
    with open_slide(real_slide("CMU-1-Small-Region.svs")) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=256, target_mpp=0.5, min_tissue=0.7)
        tiles = np.stack([read_tile(slide, plan, index) for index in range(0, len(plan.coords), 4)])
    sharp, blurred = tile_quality(tiles)["blur"], tile_quality(np.stack([defocused(tile, 2) for tile in tiles]))["blur"]
    assert (sharp < 0.5).all()
    assert (blurred > 0.6).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_folds_are_found(seed: int) -> None:
    situation = draw_situation("folds", seed)
    thumbnail = Thumbnail(situation.pixels, MPP, MPP)
    found = find_folds(thumbnail, segment(thumbnail, "stain-density", find_ink(thumbnail)))
    assert found[situation.fold].mean() > 0.5
    assert situation.fold[found].mean() > 0.7


@pytest.mark.parametrize("name", ["H&E", "pale H&E", "holes", "bare glass"])
def test_flat_tissue_has_no_folds(name: str) -> None:
    situation = draw_situation(name, seed=0)
    thumbnail = Thumbnail(situation.pixels, MPP, MPP)
    assert find_folds(thumbnail, situation.tissue).sum() <= 0.02 * situation.tissue.sum()


def test_a_fold_is_darker_in_every_colour_and_narrow() -> None:
    tissue = np.zeros((200, 200), bool)
    tissue[20:180, 20:180] = True

    def folds(where: tuple[slice, slice], layers: tuple[float, float, float]) -> np.ndarray:
        density = np.where(tissue[..., None], (0.2, 0.35, 0.2), 0.0)
        density[where] *= np.array(layers)
        pixels = np.rint(245 * 10**-density).astype(np.uint8)
        return find_folds(Thumbnail(pixels, MPP, MPP), tissue)

    band, block = (slice(60, 150), slice(90, 102)), (slice(60, 140), slice(60, 140))
    found = folds(band, (3, 3, 3))
    assert found[band].mean() > 0.8
    assert not found[:, :85].any()
    assert not folds(band, (1.3, 1.3, 1.3)).any()
    assert not folds(band, (3.5, 1.5, 1.5)).any(), "hematoxylin alone"
    assert not folds(block, (3, 3, 3)).any(), "a dark tissue"
