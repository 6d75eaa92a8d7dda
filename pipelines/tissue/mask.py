"""A tissue mask with its scale, and the share of a tile's area that a mask covers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from comel.bags.bag import TileGeometry
from pipelines.slides.coverage import area_fraction

__all__ = [
    "TissueMask",
]


@dataclass(frozen=True)
class TissueMask:
    """Tissue, ink and folds of a slide at low resolution.

    Attributes:
        mask: (h, w) bool, True for tissue.
        scale_x, scale_y: level-0 pixels per mask pixel.
        area_mm2: area of the tissue in square millimetres.
        ink: (h, w) uint8, colours of ink as :func:`pipelines.tissue.ink.find_ink` numbers them; None means no ink.
        fold: (h, w) bool, True for folded tissue; None means none.
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
