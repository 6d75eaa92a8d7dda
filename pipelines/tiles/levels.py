"""Coarser scales of a tile grid: each coarser tile contains a whole block of finer ones, and every finer tile lies in one.

All grids start at the slide's top left corner and have the same tile size and overlap in pixels of their own scale. Where one
scale is ``k`` times as coarse as the next finer one, its stride is ``k`` finer strides, so column ``j`` of the finer grid
lies within column ``j // k`` of the coarser, whatever the overlap: its last finer tile of size ``T`` and stride ``s`` ends at
``(k - 1) s + T <= k T``.

At the right and the lower edge a whole coarser tile may not fit although finer ones do. There it is moved back until it ends at
the slide's edge: it still contains its whole block, and all its pixels are on the slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from comel.errors import SlideError
from pipelines.tiles.plan import TilePlan, grid_axes, grid_positions, read_level, tile_geometry, tissue_share

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide
    from pipelines.tissue import TissueMask

__all__ = ["Scale", "covering_positions", "plan_scales"]


@dataclass(frozen=True)
class Scale:
    """The tiles of one scale, and the tile of the next coarser scale that contains each of them.

    Attributes:
        plan: the tiles.
        parent: (N,) int64, for each tile a row of the next coarser scale's plan; None at the coarsest.
    """

    plan: TilePlan
    parent: np.ndarray | None = None


def covering_positions(finer: int, ratio: int, length: int, tile: float, stride: float) -> np.ndarray:
    """Start of every coarser tile along one axis in whole level-0 pixels, int64: enough to contain every finer tile.

    Args:
        finer: number of finer tiles along the axis.
        ratio: finer strides in a coarser one.
        length: the slide's extent in level-0 pixels.
        tile: the coarser tile's extent in level-0 pixels.
        stride: distance of neighbouring coarser tiles in level-0 pixels.

    Returns:
        (M,) ascending; empty if a coarser tile is larger than the slide.
    """
    regular = grid_positions(length, tile, stride)
    if not len(regular) or finer <= ratio * len(regular):
        return regular
    at_the_edge = round(length - tile)
    return np.append(regular, at_the_edge) if at_the_edge > regular[-1] else regular


def plan_scales(slide: Slide, tissue: TissueMask, finest: TilePlan, mpps: Sequence[float]) -> list[Scale]:
    """Coarser scales over the kept tiles of the finest: exactly the tiles that contain one of them.

    Args:
        slide: an open slide.
        tissue: its tissue.
        finest: the plan of the finest scale.
        mpps: micrometres per pixel of the coarser scales, ascending, each a whole multiple of the one before.

    Returns:
        The finest scale and a scale for each of ``mpps``; tiles are in row-major order.

    Raises:
        SlideError: the slide has tiles, but is smaller than one coarser tile.
    """
    scales = [Scale(finest)]
    xs, ys = grid_axes(finest.geometry)
    for mpp in mpps:
        finer = scales.pop().plan
        geometry = tile_geometry(slide, tile_size=finer.geometry.patch_size, target_mpp=mpp, overlap=finer.geometry.overlap)
        ratio = round(mpp / finer.geometry.mpp_x)
        coarser_xs = covering_positions(len(xs), ratio, geometry.level0_width, geometry.tile_width, geometry.stride_x)
        coarser_ys = covering_positions(len(ys), ratio, geometry.level0_height, geometry.tile_height, geometry.stride_y)
        if len(finer.coords) and not (len(coarser_xs) and len(coarser_ys)):
            raise SlideError(
                f"{slide.path}: smaller than one tile of {geometry.patch_size} px at {mpp:g} um/px",
                f"leave the slide out, or extract without --also-mpp {mpp:g}",
                stage="tiles",
            )
        columns = np.minimum(np.searchsorted(xs, finer.coords[:, 0]) // ratio, len(coarser_xs) - 1)
        rows = np.minimum(np.searchsorted(ys, finer.coords[:, 1]) // ratio, len(coarser_ys) - 1)
        cells, parent = np.unique(np.stack([rows, columns], axis=1), axis=0, return_inverse=True)
        coords = np.stack([coarser_xs[cells[:, 1]], coarser_ys[cells[:, 0]]], axis=1)
        coarser = TilePlan(geometry, read_level(slide, mpp), coords, tissue_share(tissue, coords, geometry))
        scales += [Scale(finer, parent.reshape(-1).astype(np.int64)), Scale(coarser)]
        xs, ys = coarser_xs, coarser_ys
    return scales
