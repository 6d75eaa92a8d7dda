"""A tissue mask with its scale, and the share of a tile's area that a mask covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comel.bag import TileGeometry

__all__ = ["TissueMask", "area_fraction"]


@dataclass(frozen=True)
class TissueMask:
    """What there is on a slide, seen from afar.

    Attributes:
        mask: (h, w) bool, True where there is tissue.
        scale_x, scale_y: level-0 pixels per mask pixel.
        area_mm2: area of the tissue in square millimetres.
        ink: (h, w) uint8, colours of ink as :func:`pipelines.tissue.ink.find_ink` numbers them; None means no ink.
        fold: (h, w) bool, True where tissue lies double; None means nowhere.
    """

    mask: np.ndarray
    scale_x: float
    scale_y: float
    area_mm2: float
    ink: np.ndarray | None = None
    fold: np.ndarray | None = None

    def tile_shares(self, coords: np.ndarray, geometry: TileGeometry) -> dict[str, np.ndarray]:
        """``pen`` and ``fold``: (N,) float32, the share of each tile's area under ink and on folds."""
        size = geometry.tile_width, geometry.tile_height
        return {"pen": self.share(self.ink, coords, *size), "fold": self.share(self.fold, coords, *size)}

    def share(self, what: np.ndarray | None, coords: np.ndarray, tile_width: float, tile_height: float) -> np.ndarray:
        """(N,) float32, the share of each tile's area that one of the masks covers; see :func:`area_fraction`."""
        if what is None or not what.any():
            return np.zeros(len(coords), np.float32)
        return area_fraction(what > 0, self.scale_x, self.scale_y, coords, tile_width, tile_height)


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
