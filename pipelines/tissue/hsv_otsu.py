"""Tissue by its saturation."""

from __future__ import annotations

import numpy as np

from pipelines.tissue.thumbnail import Thumbnail

__all__ = ["hsv_otsu"]

_LOWEST_SATURATION = 0.045
_HIGHEST_SATURATION = 0.07
_LOWEST_DENSITY = 0.02
_LOWEST_CHROMA = 0.04


def hsv_otsu(thumbnail: Thumbnail, clear: np.ndarray) -> np.ndarray:
    """Tissue by Otsu's threshold on HSV saturation, kept within absolute limits.

    Otsu (1979) always splits a picture in two, even bare glass or a picture full of tissue. Between the limits it
    adapts to the stain; below the lower limit nothing counts, above the upper limit everything does. Grey has no saturation, so
    that dust, shadows and glue without colour do not count.

    Args:
        thumbnail: the slide.
        clear: (h, w) bool, False under ink and outside the slide.

    Returns:
        (h, w) bool, not cleaned of specks.
    """
    brightest, darkest = thumbnail.white.max(axis=2), thumbnail.white.min(axis=2)
    chroma = brightest - darkest
    saturation = chroma / np.maximum(brightest, 1e-3)
    counted = saturation[clear]
    threshold = _otsu(counted) if counted.size and np.ptp(counted) > 0 else _HIGHEST_SATURATION
    possible = clear & (chroma > _LOWEST_CHROMA) & (thumbnail.density.mean(axis=2) > _LOWEST_DENSITY)
    tissue: np.ndarray = possible & (saturation > np.clip(threshold, _LOWEST_SATURATION, _HIGHEST_SATURATION))
    return tissue


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of values that are not all equal: the centre of one of 256 bins between the smallest and the largest."""
    import cv2

    counts, edges = np.histogram(values, bins=256)
    split, _ = cv2.threshold(np.repeat(np.arange(256, dtype=np.uint8), counts), 0, 255, cv2.THRESH_OTSU)
    return float((edges[int(split)] + edges[int(split) + 1]) / 2)
