from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_slides import GLASS, tissue_picture

from comel.errors import ConfigError
from pipelines.slide import open_slide
from pipelines.tissue import area_fraction, find_tissue, hsv_otsu

PIXEL_UM2 = 64.0


def picture(colour: tuple[int, int, int], noise: int = 2) -> np.ndarray:
    """Glass with a square of a colour in its middle half."""
    random = np.random.default_rng(0)
    pixels = np.full((200, 200, 3), GLASS, int) + random.integers(-noise, noise + 1, (200, 200, 3))
    pixels[50:150, 50:150] = np.array(colour) + random.integers(-noise, noise + 1, (100, 100, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [255, 243, 200])
@pytest.mark.parametrize("noise", [0, 3, 6])
def test_bare_glass_has_no_tissue(level: int, noise: int) -> None:
    shift = np.random.default_rng(0).integers(-noise, noise + 1, (300, 300, 3))
    assert not hsv_otsu(np.clip(level + shift, 0, 255).astype(np.uint8), PIXEL_UM2).any()


def test_tinted_glass_has_no_tissue() -> None:
    tinted = np.full((200, 200, 3), (245, 238, 232), np.uint8)
    assert not hsv_otsu(tinted, PIXEL_UM2).any()


@pytest.mark.parametrize("colour", [(170, 80, 160), (228, 205, 222), (225, 210, 226), (90, 40, 120), (150, 110, 70)])
def test_stained_and_pale_tissue_counts(colour: tuple[int, int, int]) -> None:
    mask = hsv_otsu(picture(colour), PIXEL_UM2)
    assert mask[55:145, 55:145].all()
    assert mask.sum() <= 104**2


@pytest.mark.parametrize("colour", [(20, 20, 22), (110, 112, 110), (200, 200, 202), (40, 150, 80)])
def test_black_grey_and_green_ink_does_not_count(colour: tuple[int, int, int]) -> None:
    assert hsv_otsu(picture(colour), PIXEL_UM2).mean() < 0.01


def test_a_slide_full_of_tissue_is_not_split() -> None:
    random = np.random.default_rng(0)
    full = np.where(random.random((300, 300, 1)) < 0.5, (120, 50, 130), (215, 150, 200)) + random.integers(-5, 6, (300, 300, 3))
    assert hsv_otsu(full.astype(np.uint8), PIXEL_UM2).all()


def test_unknown_method_names_the_known(slide_path: Path) -> None:
    with open_slide(slide_path) as slide, pytest.raises(ConfigError, match="hsv-otsu"):
        find_tissue(slide, "otsu")


def test_area_is_in_square_millimetres(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        found = find_tissue(slide)
    assert found.area_mm2 == pytest.approx(1024 * 768 * 0.25e-6, rel=0.06)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("PDAC-tru-cut_HE3_ds4.tif", 0.06, 0.10), ("TCGA-CR-7395-01A-01-TS1.svs", 0.58, 0.68)]
)
def test_real_tissue(real_slide: Callable[[str], Path], name: str, least: float, most: float) -> None:
    with open_slide(real_slide(name), assume_mpp=1.052) as slide:
        assert least < find_tissue(slide).mask.mean() < most


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
