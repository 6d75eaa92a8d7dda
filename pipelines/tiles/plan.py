"""The tile grid of a slide: a fixed field of view at a true resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from comel.bags.bag import TileGeometry
from comel.errors import SlideError
from pipelines.slides.coverage import area_fraction
from pipelines.tissue import TissueMask

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide

__all__ = [
    "TilePlan",
    "TooCoarse",
    "grid_axes",
    "grid_positions",
    "plan_tiles",
    "read_level",
    "tile_geometry",
    "tissue_share",
    "too_small",
]

_SAME_MPP = 1.01
_MOST_ENLARGED = 1.10


class TooCoarse(SlideError):
    """A slide whose level 0 is too coarse for the tiles' resolution."""


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a slide to read, and their level.

    Attributes:
        geometry: size, resolution and stride of the tiles.
        level: the slide's level to read.
        coords: (N, 2) int64 level-0 top-left pixels (x, y), by y, then x.
        tissue: (N,) float32, the share of each tile's area that is tissue.
    """

    geometry: TileGeometry
    level: int
    coords: np.ndarray
    tissue: np.ndarray

    def only(self, kept: np.ndarray) -> TilePlan:
        """The plan with only the tiles for which ``kept``, (N,) bool, is true."""
        return replace(self, coords=self.coords[kept], tissue=self.tissue[kept])


def tile_geometry(slide: Slide, *, tile_size: int, target_mpp: float, overlap: int = 0) -> TileGeometry:
    """The geometry of tiles of ``tile_size`` pixels at ``target_mpp`` micrometres per pixel on this slide.

    The field of view is ``tile_size * target_mpp`` micrometres on every slide; its size in level-0 pixels is not rounded.

    Raises:
        TooCoarse: the slide is more than 10 % coarser than ``target_mpp`` (stage "mpp").
    """
    coarseness = max(slide.mpp_x, slide.mpp_y) / target_mpp
    if coarseness > _MOST_ENLARGED + 1e-9:
        own = max(slide.mpp_x, slide.mpp_y)
        raise TooCoarse(
            f"{slide.path}: the slide has {own:g} um/px, too coarse for tiles at {target_mpp:g} um/px",
            f"extract with --target-mpp of at least {own:g}, for the whole cohort",
            stage="mpp",
        )
    width, height = slide.dimensions
    return TileGeometry(
        patch_size=tile_size,
        mpp_x=target_mpp,
        mpp_y=target_mpp,
        level0_mpp_x=slide.mpp_x,
        level0_mpp_y=slide.mpp_y,
        level0_width=width,
        level0_height=height,
        overlap=overlap,
        bounds_x=slide.bounds[0] if slide.bounds else 0,
        bounds_y=slide.bounds[1] if slide.bounds else 0,
        has_bounds=slide.bounds is not None,
        name=slide.path.name,
        interpolated=coarseness > _SAME_MPP,
    )


def too_small(geometry: TileGeometry) -> str | None:
    """The message for a slide that is smaller than one tile; None for any other."""
    if all(len(positions) for positions in grid_axes(geometry)):
        return None
    width, height = geometry.level0_width, geometry.level0_height
    fitting = int(min((width + 0.5) * geometry.level0_mpp_x, (height + 0.5) * geometry.level0_mpp_y) / geometry.mpp_x)
    tile = f"{geometry.tile_width:g} x {geometry.tile_height:g} of them"
    remedy = f"--tile-size {fitting}" if fitting else "a finer --target-mpp"
    return f"smaller than a tile: {width} x {height} px at {geometry.level0_mpp_x:.4g} um/px, a tile has {tile}: {remedy}"


def grid_positions(length: int, tile: float, stride: float) -> np.ndarray:
    """Start of every tile along one axis in whole level-0 pixels, int64.

    Each position is rounded separately from an unrounded stride, so none is off by more than half a pixel however long the
    axis is. Tiles lie inside the slide to within half a pixel.

    Args:
        length: the slide's extent in level-0 pixels.
        tile: the tile's extent in level-0 pixels.
        stride: distance of neighbouring tiles in level-0 pixels.
    """
    count = max(0, int((length - tile + 0.5) / stride) + 2)
    positions = np.rint(np.arange(count) * stride).astype(np.int64)
    inside: np.ndarray = positions[positions + tile <= length + 0.5]
    return inside


def grid_axes(geometry: TileGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Start of every column and of every row of a slide's grid in whole level-0 pixels; see :func:`grid_positions`."""
    xs = grid_positions(geometry.level0_width, geometry.tile_width, geometry.stride_x)
    return xs, grid_positions(geometry.level0_height, geometry.tile_height, geometry.stride_y)


def plan_tiles(
    slide: Slide,
    tissue: TissueMask,
    *,
    tile_size: int,
    target_mpp: float,
    overlap: int = 0,
    min_tissue: float = 0.25,
    max_pen: float = 1.0,
    max_fold: float = 1.0,
) -> TilePlan:
    """Lay the grid over a slide and keep the tiles with at least ``min_tissue`` of their area on tissue (0 keeps all).

    Of these, tiles with more than ``max_pen`` of their area under ink or ``max_fold`` on folds are left out.

    Raises:
        SlideError: the slide is too coarse for ``target_mpp``.
    """
    geometry = tile_geometry(slide, tile_size=tile_size, target_mpp=target_mpp, overlap=overlap)
    xs, ys = grid_axes(geometry)
    coords = np.stack([np.tile(xs, len(ys)), np.repeat(ys, len(xs))], axis=1)
    plan = TilePlan(geometry, read_level(slide, target_mpp), coords, tissue_share(tissue, coords, geometry))
    # A share computed by differences may fall short of an exact threshold by rounding.
    kept = plan.tissue >= min_tissue - 1e-6
    for found, most in ((tissue.ink, max_pen), (tissue.fold, max_fold)):
        kept &= tissue.share(found, coords, geometry.tile_width, geometry.tile_height) <= most + 1e-6
    return plan.only(kept)


def tissue_share(tissue: TissueMask, coords: np.ndarray, geometry: TileGeometry) -> np.ndarray:
    """(N,) float32, the share of each tile's area that is tissue."""
    return area_fraction(tissue.mask, tissue.scale_x, tissue.scale_y, coords, geometry.tile_width, geometry.tile_height)


def read_level(slide: Slide, target_mpp: float) -> int:
    """The level that tiles at ``target_mpp`` are read from: the coarsest that is not coarser (within 1 %) along either axis."""
    return slide.level_for(_SAME_MPP * target_mpp / max(slide.mpp_x, slide.mpp_y))
