"""Folds: narrow bands where tissue lies in several layers."""

from __future__ import annotations

import numpy as np

from pipelines.tissue.thumbnail import Thumbnail

__all__ = ["find_folds"]

_LAYERS = 1.9
_DARK = 1.5
_SURROUNDINGS_UM = 600.0
_LEAST_DENSITY = 0.25
_WIDEST_UM = 250.0
_SMALLEST_UM2 = 80.0**2
_LEAST_ELONGATION = 2.5


def find_folds(thumbnail: Thumbnail, tissue: np.ndarray) -> np.ndarray:
    """Where tissue is folded.

    A pleat is three layers, and layers add up in optical density (Beer and Lambert). So a fold is at least 1.9 times as
    dense, for light of every colour, as the surrounding 600 um and as half of the slide's tissue; a dense infiltrate, in
    which only the hematoxylin rises, is so only for red light. Areas wider than 250 um, or less than two and a half
    times as long as wide, are dark tissue, not folds.

    Args:
        thumbnail: the slide.
        tissue: (h, w) bool.

    Returns:
        (h, w) bool, inside the tissue.
    """
    import cv2

    if not tissue.any():
        return np.zeros(tissue.shape, bool)
    density = cv2.GaussianBlur(thumbnail.density, (0, 0), max(0.5, thumbnail.pixels_of(8.0)))
    usual = np.median(density[tissue], axis=0)
    covered = (tissue & (density.mean(axis=2) < _DARK * usual.mean())).astype(np.float32)
    window = (max(3, round(thumbnail.pixels_of(_SURROUNDINGS_UM))),) * 2
    around = cv2.boxFilter(density * covered[..., None], -1, window, normalize=False)
    around /= np.maximum(cv2.boxFilter(covered, -1, window, normalize=False), 1)[..., None]
    single = np.maximum(around, usual)
    dark = tissue & (density > _LAYERS * single).all(axis=2) & (density.mean(axis=2) > _LEAST_DENSITY)
    _, parts, found, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=8)
    depth = cv2.distanceTransform(dark.astype(np.uint8), cv2.DIST_L2, 5)
    is_fold = found[:, cv2.CC_STAT_AREA] > _SMALLEST_UM2 / thumbnail.pixel_um2
    is_fold[0] = False
    for part in np.flatnonzero(is_fold):
        left, top, across, down, area = (int(value) for value in found[part])
        inside = (slice(top, top + down), slice(left, left + across))
        width = 2 * float(depth[inside][parts[inside] == part].max())
        is_fold[part] = width <= thumbnail.pixels_of(_WIDEST_UM) and area >= _LEAST_ELONGATION * width**2
    folds: np.ndarray = is_fold[parts]
    return folds
