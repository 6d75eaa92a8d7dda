"""Where tiles lie on their slide, and how a feature file states it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from comel.base.text import is_text
from comel.errors import BagError

__all__ = ["LARGEST_SIDE", "TileGeometry", "geometry_from_attributes", "tile_cells", "tile_spacing"]

LARGEST_SIDE = 2**24
"""Level-0 pixels along a side; no slide has more."""


@dataclass(frozen=True)
class TileGeometry:
    """Where tiles lie on their slide.

    The micrometres per pixel are the truth; the magnifications and ``patch_size_level0`` are there because other tools
    look them up under these names.

    Attributes:
        patch_size: tile side in pixels of the encoded tiles, at ``mpp_x``/``mpp_y``.
        mpp_x, mpp_y: micrometres per pixel of the tiles that were encoded.
        level0_mpp_x, level0_mpp_y: micrometres per pixel of the slide's level 0.
        level0_width, level0_height: the slide's size in level-0 pixels.
        overlap: pixels that neighbouring tiles share, at ``mpp_x``/``mpp_y``.
        bounds_x, bounds_y: offset of the slide's non-empty region in level-0 pixels (``openslide.bounds-x/y``), else 0.
        has_bounds: whether the slide states all four ``openslide.bounds-*`` (QuPath crops only then).
        name: the slide's file name.
        interpolated: whether the slide was coarser than the target and its tiles were enlarged (by at most 10 %).
    """

    patch_size: int
    mpp_x: float
    mpp_y: float
    level0_mpp_x: float
    level0_mpp_y: float
    level0_width: int
    level0_height: int
    overlap: int = 0
    bounds_x: int = 0
    bounds_y: int = 0
    has_bounds: bool = False
    name: str = ""
    interpolated: bool = False

    @property
    def tile_width(self) -> float:
        """Tile width in level-0 pixels, not rounded."""
        return self.patch_size * self.mpp_x / self.level0_mpp_x

    @property
    def tile_height(self) -> float:
        """Tile height in level-0 pixels, not rounded."""
        return self.patch_size * self.mpp_y / self.level0_mpp_y

    @property
    def stride_x(self) -> float:
        """Horizontal distance of neighbouring tiles in level-0 pixels, not rounded."""
        return (self.patch_size - self.overlap) * self.mpp_x / self.level0_mpp_x

    @property
    def stride_y(self) -> float:
        """Vertical distance of neighbouring tiles in level-0 pixels, not rounded."""
        return (self.patch_size - self.overlap) * self.mpp_y / self.level0_mpp_y

    @property
    def patch_size_level0(self) -> int:
        """Tile width in level-0 pixels, rounded, for tools that want one integer."""
        return max(1, round(self.tile_width))

    def attributes(self) -> dict[str, Any]:
        """The attributes written on ``coords``."""
        return {
            **dataclasses.asdict(self),
            "patch_size_level0": self.patch_size_level0,
            "level0_magnification": 10.0 / self.level0_mpp_x,
            "target_magnification": 10.0 / self.mpp_x,
        }


def geometry_from_attributes(attributes: Mapping[str, Any], where: object = "bag") -> TileGeometry | None:
    """The geometry in the attributes of ``coords``, or None if the micrometres per pixel are missing.

    Magnifications are never used: they are rounded to 40, 20 and 10 in many files.

    Raises:
        BagError: the attributes are not numbers, or not possible for a slide; the message begins with ``where``.
    """
    names = {field.name: field for field in dataclasses.fields(TileGeometry)}
    required = [name for name, entry in names.items() if entry.default is dataclasses.MISSING]
    if any(name not in attributes for name in required):
        return None
    types = {"int": int, "float": float, "bool": bool, "str": str}
    try:
        known = {name: types[str(names[name].type)](attributes[name]) for name in names if name in attributes}
    except (TypeError, ValueError, OverflowError) as error:
        raise BagError(f"{where}: the attributes of 'coords' are not numbers ({error})", "extract the slide again") from None
    geometry = TileGeometry(**known)
    sizes = (geometry.patch_size, geometry.mpp_x, geometry.mpp_y, geometry.level0_mpp_x, geometry.level0_mpp_y)
    sides = (geometry.patch_size, geometry.level0_width, geometry.level0_height, geometry.bounds_x, geometry.bounds_y)
    fit = all(np.isfinite(size) and size > 0 for size in sizes) and all(0 <= side <= LARGEST_SIDE for side in sides)
    if not fit or not 0 <= geometry.overlap < geometry.patch_size or not is_text(geometry.name):
        raise BagError(f"{where}: tile size, overlap, sides or mpp on 'coords' are absurd", "extract the slide again")
    return geometry


def tile_spacing(coords: np.ndarray) -> np.ndarray:
    """(2,) distance of neighbouring tiles along x and y, in the unit of ``coords``; arbitrary if there are no neighbours.

    It is measured within rows and columns: some tools start a new grid for each piece of tissue, so that columns of one piece
    lie between those of another. Each position is rounded to whole pixels, so the distance is a mean, which does not drift.

    Args:
        coords: (N, 2) top-left corners (x, y), in level-0 pixels or any other unit.
    """
    coords = np.asarray(coords, dtype=np.float64)
    gaps = [_gaps(coords, along, across) for along, across in ((0, 1), (1, 0))]
    if not any(map(len, gaps)):
        gaps = [np.diff(np.unique(coords[:, axis])) for axis in (0, 1)]
    every = np.concatenate(gaps)
    if not len(every):
        return np.array([256.0, 256.0])
    # Many tiles may be far apart; only a few are closer than neighbours, where two pieces overlap.
    near = 1.5 * np.quantile(every, 0.05, method="lower")
    means = [own[own < near].mean() if (own < near).any() else None for own in gaps]
    return np.array([means[0] or means[1], means[1] or means[0]])


def _gaps(coords: np.ndarray, along: int, across: int) -> np.ndarray:
    """The distance from each tile to the next in its row (along x, across y) or column."""
    ordered = coords[np.lexsort((coords[:, along], coords[:, across]))]
    steps = np.diff(ordered, axis=0)
    beside: np.ndarray = steps[(steps[:, across] == 0) & (steps[:, along] > 0), along]
    return beside


def tile_cells(coords: np.ndarray) -> np.ndarray:
    """(N, 2) int64: column and row of each tile, from 0.

    Pieces of tissue with separate grids are shifted by up to half a tile onto one grid; within a piece nothing moves.

    Args:
        coords: (N, 2) top-left corners (x, y), in level-0 pixels or any other unit.
    """
    coords = np.asarray(coords, dtype=np.float64)
    if not len(coords):
        return np.zeros((0, 2), np.int64)
    # Not rint: it rounds halves to even numbers, and would split a piece that lies half a tile off the grid.
    cells: np.ndarray = np.floor((coords - coords.min(axis=0)) / tile_spacing(coords) + 0.5).astype(np.int64)
    return cells
