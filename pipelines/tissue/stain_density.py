"""Tissue by the amount of stain: hematoxylin, eosin and DAB."""

from __future__ import annotations

import numpy as np

from pipelines.tissue.thumbnail import Thumbnail

__all__ = ["STAINS", "stain_density"]

STAINS = np.array([(0.650, 0.704, 0.286), (0.216, 0.801, 0.558), (0.268, 0.570, 0.776)])
"""Optical density of red, green and blue light per unit of hematoxylin, eosin and DAB (Ruifrok and Johnston 2001; eosin as
measured on scanned slides by Macenko et al. 2009)."""

_LOWEST, _HIGHEST = 0.03, 0.06
_NOISES = 6.0
_LEAST_COLOUR = 0.06


def stain_density(thumbnail: Thumbnail, clear: np.ndarray) -> np.ndarray:
    """Tissue where the total stain density exceeds the noise of the glass.

    The median of five by five pixels reduces the noise of the glass and preserves the border of the tissue. The
    densities are resolved into the three stains, each not below zero, and added. The threshold lies six robust standard
    deviations above the glass, between 0.03 and 0.06 units; so it does not depend on how much of the slide is tissue or on its
    strongest stain, as Otsu's does. Grey is not a stain: anything that absorbs all colours alike does not count.

    Args:
        thumbnail: the slide.
        clear: (h, w) bool, False under ink and outside the slide.

    Returns:
        (h, w) bool, not cleaned of specks.
    """
    import cv2

    density = cv2.medianBlur(thumbnail.density, 5)
    amounts = np.maximum(density @ np.linalg.inv(STAINS).astype(np.float32), 0).sum(axis=2)
    glass = amounts[clear & (amounts < _HIGHEST)]
    threshold = _HIGHEST
    if glass.size:
        middle = float(np.median(glass))
        threshold = middle + _NOISES * 1.4826 * float(np.median(np.abs(glass - middle)))
    coloured = density.max(axis=2) - density.min(axis=2) > _LEAST_COLOUR * density.sum(axis=2)
    tissue: np.ndarray = clear & coloured & (amounts > np.clip(threshold, _LOWEST, _HIGHEST))
    return tissue
