"""The picture in which tissue is found, with its scale and its optical density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide

__all__ = ["MASK_MPP", "Thumbnail", "read_thumbnail"]

MASK_MPP = 8.0
"""Micrometres per pixel of the thumbnail, unless the slide is too small or too large for it."""
_SIDES = (256, 4096)
_BRIGHT_GLASS, _LEAST_GLASS = 0.75, 0.02
_PURE_WHITE, _UNEVEN = 254 / 255, 0.012
_COLOURLESS_GLASS, _TINTED_GLASS, _LEAST_GREEN = 0.06, 0.15, 0.01


@dataclass(frozen=True)
class Thumbnail:
    """A slide at low resolution.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        mpp_x, mpp_y: its micrometres per pixel.
    """

    pixels: np.ndarray
    mpp_x: float
    mpp_y: float

    @property
    def pixel_um2(self) -> float:
        """Area of a pixel in square micrometres."""
        return self.mpp_x * self.mpp_y

    def pixels_of(self, length_um: float) -> float:
        """A length in micrometres as pixels of the thumbnail."""
        return length_um / math.sqrt(self.pixel_um2)

    @cached_property
    def white(self) -> np.ndarray:
        """(h, w, 3) float32 in 0..1, lightly smoothed, empty glass made white, so that a tinted lamp is not a stain."""
        import cv2

        smooth = cv2.medianBlur(self.pixels, 3).astype(np.float32) / 255
        white: np.ndarray = np.minimum(smooth / _glass_colour(smooth), 1.0)
        return white

    @cached_property
    def density(self) -> np.ndarray:
        """(h, w, 3) float32 optical density, -log10 of the transmitted share of light; 0 is glass, at most 2.4."""
        density: np.ndarray = -np.log10(np.maximum(self.white, 1 / 255))
        return density


def read_thumbnail(slide: Slide) -> Thumbnail:
    """The whole slide at about :data:`MASK_MPP` micrometres per pixel.

    Raises:
        SlideError: the slide's pixels cannot be read.
    """
    width, height = slide.dimensions
    wanted = max(width * slide.mpp_x, height * slide.mpp_y) / MASK_MPP
    pixels = np.asarray(slide.thumbnail(round(min(max(wanted, _SIDES[0]), _SIDES[1]))))
    return Thumbnail(pixels, width * slide.mpp_x / pixels.shape[1], height * slide.mpp_y / pixels.shape[0])


def _glass_colour(pixels: np.ndarray) -> np.ndarray:
    """Colour (3,) of the empty glass, white if little of the picture can be glass.

    Glass is bright and nearly without colour. A lamp or a mounting medium may tint it; but what absorbs mostly green
    light is pale tissue. The brighter half of the candidates decides, since pale tissue can be among them. Pure white is
    what a scanner fills in where it did not scan: it is left out, unless the rest is too uneven to be glass.
    """
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    tint = pixels.max(axis=2) - pixels.min(axis=2)
    tinted = (tint < _TINTED_GLASS) & (green > np.minimum(red, blue) + _LEAST_GREEN)
    may_be = (pixels.min(axis=2) > _BRIGHT_GLASS) & ((tint < _COLOURLESS_GLASS) | tinted)
    may_be &= pixels.min(axis=2) < _PURE_WHITE
    if may_be.mean() < _LEAST_GLASS:
        return np.ones(3, dtype=np.float32)
    candidates = pixels[may_be]
    brightness = candidates.mean(axis=1)
    brighter = candidates[brightness >= np.median(brightness)]
    glass = np.median(brighter, axis=0)
    uneven = np.median(np.abs(brighter - glass)) > _UNEVEN
    return np.ones(3, dtype=np.float32) if uneven else glass.astype(np.float32)
