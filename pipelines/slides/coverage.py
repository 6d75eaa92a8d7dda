"""How much of each rectangle a mask covers."""

from __future__ import annotations

import numpy as np

__all__ = ["area_fraction"]


def area_fraction(
    mask: np.ndarray, scale_x: float, scale_y: float, coords: np.ndarray, tile_width: float, tile_height: float
) -> np.ndarray:
    """The exact share of each tile's area that a mask covers.

    An integral image of a mask whose pixels are squares of constant value is bilinear between its nodes, so four
    interpolated look-ups per tile give the area without rounding.

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
        sums: np.ndarray = map_coordinates(integral, inside, order=1, mode="nearest", prefilter=False)
        return sums

    covered = up_to(bottom, right) - up_to(top, right) - up_to(bottom, left) + up_to(top, left)
    tile_area = (tile_width / scale_x) * (tile_height / scale_y)
    shares: np.ndarray = np.clip(covered / tile_area, 0.0, 1.0).astype(np.float32)
    return shares
