"""Where there is tissue on a slide, found on a thumbnail of about 8 micrometres per pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from comel.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.slide import Slide

__all__ = ["TISSUE_METHODS", "TissueMask", "area_fraction", "find_tissue", "hsv_otsu"]

_MASK_MPP = 8.0
_MASK_SIDES = (256, 4096)

_LOWEST_SATURATION = 0.045
_HIGHEST_SATURATION = 0.07
_LOWEST_DENSITY = 0.02
_LOWEST_CHROMA = 0.04
_GREEN_HUES = (0.19, 0.53)
_SMALLEST_OBJECT_UM2 = 120.0**2
_LARGEST_HOLE_UM2 = 100.0**2


@dataclass(frozen=True)
class TissueMask:
    """A tissue mask that knows its scale.

    Attributes:
        mask: (h, w) bool, True where there is tissue.
        scale_x, scale_y: level-0 pixels per mask pixel.
        area_mm2: area of the tissue in square millimetres.
    """

    mask: np.ndarray
    scale_x: float
    scale_y: float
    area_mm2: float


def find_tissue(slide: Slide, method: str = "hsv-otsu") -> TissueMask:
    """Find the tissue of a slide.

    Args:
        slide: an open slide.
        method: a name in :data:`TISSUE_METHODS`.

    Raises:
        ConfigError: there is no such method.
        SlideError: the slide's pixels cannot be read.
    """
    if method not in TISSUE_METHODS:
        raise ConfigError(f"no tissue method '{method}'", f"choose one of {', '.join(sorted(TISSUE_METHODS))}")
    width, height = slide.dimensions
    wanted = max(width * slide.mpp_x, height * slide.mpp_y) / _MASK_MPP
    pixels = np.asarray(slide.thumbnail(round(min(max(wanted, _MASK_SIDES[0]), _MASK_SIDES[1]))))
    scale_x, scale_y = width / pixels.shape[1], height / pixels.shape[0]
    pixel_um2 = scale_x * slide.mpp_x * scale_y * slide.mpp_y
    mask = TISSUE_METHODS[method](pixels, pixel_um2)
    return TissueMask(mask, scale_x, scale_y, area_mm2=float(mask.sum()) * pixel_um2 * 1e-6)


def hsv_otsu(pixels: np.ndarray, pixel_um2: float) -> np.ndarray:
    """Tissue by Otsu's threshold on HSV saturation, kept within absolute limits.

    Otsu (1979) always splits a picture in two, also one of bare glass and one full of tissue. Between the limits it
    adapts to the stain; below the lower one nothing counts, above the upper one everything does. Glass is made white
    first, so that a tinted lamp does not count as stain. Black and grey ink has no chroma, green ink a hue that no common
    stain has; blue and red ink cannot be told from stain by colour and stays.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        pixel_um2: area of a pixel in square micrometres.

    Returns:
        (h, w) bool.
    """
    from PIL import Image, ImageFilter
    from skimage import color, filters, morphology

    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3)), dtype=np.float32) / 255
    smooth = np.minimum(smooth / _glass_colour(smooth), 1.0)
    brightest, darkest = smooth.max(axis=2), smooth.min(axis=2)
    chroma = brightest - darkest
    saturation = chroma / np.maximum(brightest, 1e-3)
    density = -np.log10(np.clip(smooth, 1 / 255, 1.0)).mean(axis=2)
    possible = (chroma > _LOWEST_CHROMA) & (density > _LOWEST_DENSITY)
    threshold = filters.threshold_otsu(saturation) if np.ptp(saturation) > 0 else _HIGHEST_SATURATION
    mask = possible & (saturation > np.clip(threshold, _LOWEST_SATURATION, _HIGHEST_SATURATION))
    hue = color.rgb2hsv(smooth)[..., 0]
    mask &= ~((hue > _GREEN_HUES[0]) & (hue < _GREEN_HUES[1]))
    mask = morphology.closing(mask, morphology.disk(2))
    mask = morphology.remove_small_objects(mask, max_size=round(_SMALLEST_OBJECT_UM2 / pixel_um2))
    return morphology.remove_small_holes(mask, max_size=round(_LARGEST_HOLE_UM2 / pixel_um2))


TISSUE_METHODS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"hsv-otsu": hsv_otsu}


def area_fraction(
    mask: np.ndarray, scale_x: float, scale_y: float, coords: np.ndarray, tile_width: float, tile_height: float
) -> np.ndarray:
    """The exact share of each tile's area that a mask covers.

    An integral image of a mask whose pixels are squares of constant value is bilinear between its nodes, so four
    interpolated look-ups a tile give the area without rounding.

    Args:
        mask: (h, w) bool or float.
        scale_x, scale_y: level-0 pixels per mask pixel.
        coords: (N, 2) level-0 top-left pixels (x, y).
        tile_width, tile_height: tile size in level-0 pixels, not rounded.

    Returns:
        (N,) float32 in 0..1.
    """
    from scipy.ndimage import map_coordinates

    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    integral[1:, 1:] = mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    left, top = coords[:, 0] / scale_x, coords[:, 1] / scale_y
    right, bottom = left + tile_width / scale_x, top + tile_height / scale_y

    def up_to(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        inside = [np.clip(y, 0, mask.shape[0]), np.clip(x, 0, mask.shape[1])]
        return map_coordinates(integral, inside, order=1, mode="nearest", prefilter=False)

    covered = up_to(bottom, right) - up_to(top, right) - up_to(bottom, left) + up_to(top, left)
    tile_area = (tile_width / scale_x) * (tile_height / scale_y)
    return np.clip(covered / tile_area, 0.0, 1.0).astype(np.float32)


def _glass_colour(pixels: np.ndarray) -> np.ndarray:
    """Colour (3,) of the empty glass: the median of the bright, nearly colourless pixels; white where there are few."""
    bright = (pixels.min(axis=2) > 0.75) & (np.ptp(pixels, axis=2) < 0.08)
    if bright.mean() < 0.02:
        return np.ones(3, dtype=np.float32)
    return np.median(pixels[bright], axis=0).astype(np.float32)
