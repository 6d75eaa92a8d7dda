"""Tile scores as a small image: one cell per tile stride, placed on the slide by a float transform.

Built from tile coordinates and geometry, never from a level-0 image, so its cost grows with the number of tiles, not with
the slide's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from comel.bags.geometry import tile_spacing
from comel.errors import ComelError
from comel.prediction.prediction import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["RasterTransform", "TileGrid", "raster_picture", "sample_raster", "score_raster", "tile_corners", "tile_grid"]

MAX_RASTER_CELLS = 1 << 26
_OFF_GRID_SUBDIVISION = 4


@dataclass(frozen=True)
class RasterTransform:
    """Where raster cells lie on the slide, in level-0 pixels (or the coordinates' own unit if no geometry is known).

    Attributes:
        origin_x, origin_y: top-left corner of the cell in row 0, column 0.
        cell_width, cell_height: size of a cell in the same unit, not rounded.
    """

    origin_x: float
    origin_y: float
    cell_width: float
    cell_height: float

    def columns(self, x: np.ndarray) -> np.ndarray:
        """(N,) int64: column of the cell that contains each ``x`` (N,), in the transform's unit; may lie outside the raster."""
        return np.floor((x - self.origin_x) / self.cell_width).astype(np.int64)

    def rows(self, y: np.ndarray) -> np.ndarray:
        """(N,) int64: row of the cell that contains each ``y`` (N,), in the transform's unit; may lie outside the raster."""
        return np.floor((y - self.origin_y) / self.cell_height).astype(np.int64)


@dataclass(frozen=True)
class TileGrid:
    """N tiles as cells of a grid.

    Attributes:
        columns, rows: (N,) int64, first column and row of each tile's cells.
        across, down: number of cells that a tile spans, not rounded.
        transform: where the cells lie, in level-0 pixels (or the coordinates' own unit if no geometry is known).
    """

    columns: np.ndarray
    rows: np.ndarray
    across: float
    down: float
    transform: RasterTransform


def score_raster(prediction: Prediction, scores: np.ndarray | None = None) -> tuple[np.ndarray, RasterTransform]:
    """The tile scores as a small image, one cell per tile stride; scores of overlapping tiles are averaged.

    Tiles without a common grid (several regions, each with its own grid) get cells of a quarter stride.

    Args:
        prediction: N scores with coordinates; without geometry the stride is taken from the coordinates' own spacing.
        scores: (N,) in [0, 1] instead of the prediction's own, such as another class's.

    Returns:
        (rows, columns) float32, NaN where no tile lies, and the raster's place on the slide.

    Raises:
        ComelError: no coordinates, or coordinates too scattered for the tile size.
    """
    grid = tile_grid(prediction)
    if not len(grid.rows):
        return np.full((0, 0), np.nan, np.float32), grid.transform
    # A cell belongs to the tiles that contain its centre.
    across, down = (max(1, int(span + 0.5)) for span in (grid.across, grid.down))
    shape = (int(grid.rows.max()) + down, int(grid.columns.max()) + across)
    flat = grid.rows * shape[1] + grid.columns
    scores = prediction.instance_scores if scores is None else scores
    total = np.bincount(flat, scores, shape[0] * shape[1]).reshape(shape)
    count = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    for axis, length in ((0, down), (1, across)):
        total, count = _trailing_sum(total, length, axis), _trailing_sum(count, length, axis)
    raster = np.full(shape, np.nan, np.float32)
    covered = count > 0
    raster[covered] = np.clip(total[covered] / count[covered], 0.0, 1.0)
    return raster, grid.transform


def sample_raster(
    raster: np.ndarray, transform: RasterTransform, size: tuple[int, int], extent: tuple[float, float, float, float]
) -> np.ndarray:
    """The raster resampled to an image: each image pixel takes the cell under its centre.

    If cells are smaller than image pixels, neighbouring cells are first joined by their maximum, so that a lone positive
    tile stays visible.

    Args:
        raster, transform: from :func:`score_raster`.
        size: image width and height in pixels.
        extent: left, top, width and height of the image in level-0 pixels.

    Returns:
        (height, width) float32, NaN where no tile lies.
    """
    left, top, width, height = extent
    step_x, step_y = width / size[0], height / size[1]
    join_x, join_y = int(np.ceil(step_x / transform.cell_width)), int(np.ceil(step_y / transform.cell_height))
    if raster.size and (join_x > 1 or join_y > 1):
        padded = np.pad(raster, ((0, -raster.shape[0] % join_y), (0, -raster.shape[1] % join_x)), constant_values=np.nan)
        blocks = padded.reshape(padded.shape[0] // join_y, join_y, padded.shape[1] // join_x, join_x)
        raster = np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1)
        cell_width, cell_height = transform.cell_width * join_x, transform.cell_height * join_y
        transform = RasterTransform(transform.origin_x, transform.origin_y, cell_width, cell_height)
    columns = transform.columns(left + (np.arange(size[0]) + 0.5) * step_x)
    rows = transform.rows(top + (np.arange(size[1]) + 0.5) * step_y)
    inside_x, inside_y = (columns >= 0) & (columns < raster.shape[1]), (rows >= 0) & (rows < raster.shape[0])
    sampled = np.full((size[1], size[0]), np.nan, np.float32)
    sampled[np.ix_(inside_y, inside_x)] = raster[np.ix_(rows[inside_y], columns[inside_x])]
    return sampled


def raster_picture(raster: np.ndarray) -> Image:
    """The raster as a grey picture with alpha, one pixel per cell: score 0 to 1 as grey 1 to 255, transparent without a tile.

    A raster without cells becomes one transparent pixel, since a picture needs at least one.
    """
    from PIL import Image as Images

    if not raster.size:
        return Images.new("LA", (1, 1))
    covered = ~np.isnan(raster)
    grey = np.where(covered, 1 + np.rint(np.nan_to_num(raster) * 254), 0)
    return Images.fromarray(np.stack([grey, covered * 255], axis=-1).astype(np.uint8))


def tile_corners(prediction: Prediction) -> np.ndarray:
    """(N, 2) top-left corners (x, y) of the tiles: level-0 pixels, or the bag's own unit if it has no geometry.

    Raises:
        ComelError: no coordinates, or some that are not finite.
    """
    if prediction.coords is None or not np.isfinite(prediction.coords).all():
        raise ComelError(
            f"{prediction.slide_id}: the bag has no usable coordinates, so there is nothing to map", "give a bag with coords"
        )
    return prediction.coords


def tile_grid(prediction: Prediction) -> TileGrid:
    """Each tile's cell. Stored corners are rounded to whole pixels, so the grid's origin is their mean offset."""
    coords, geometry = tile_corners(prediction).astype(np.float64), prediction.geometry
    if geometry is not None:
        stride, tile = np.array([geometry.stride_x, geometry.stride_y]), np.array([geometry.tile_width, geometry.tile_height])
    else:
        stride = tile = tile_spacing(coords)
    if not len(coords):
        nothing = np.zeros(0, np.int64)
        return TileGrid(nothing, nothing, 1.0, 1.0, RasterTransform(0.0, 0.0, *stride.tolist()))
    lowest, cell = coords.min(axis=0), stride
    offsets = coords - lowest - np.rint((coords - lowest) / cell) * cell
    if (np.ptp(offsets, axis=0) > np.maximum(1.5, 0.02 * stride)).any():
        cell = stride / _OFF_GRID_SUBDIVISION
        offsets = coords - lowest - np.rint((coords - lowest) / cell) * cell
    index = np.rint((coords - lowest) / cell)
    span = tile / cell
    if np.prod(index.max(axis=0) + span + 1) > MAX_RASTER_CELLS:
        raise ComelError(
            f"{prediction.slide_id}: tiles spread over {index[:, 0].max():.3g} x {index[:, 1].max():.3g} tile strides",
            "check the bag's coords and tile size",
        )
    transform = RasterTransform(*(lowest + offsets.mean(axis=0)).tolist(), *cell.tolist())
    columns, rows = index.astype(np.int64).T
    return TileGrid(columns, rows, float(span[0]), float(span[1]), transform)


def _trailing_sum(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Each cell with the ``length - 1`` cells before it along ``axis``, summed."""
    if length == 1:
        return values
    running = values.cumsum(axis)
    before = np.zeros_like(running)
    moved, kept = [slice(None)] * 2, [slice(None)] * 2
    moved[axis], kept[axis] = slice(length, None), slice(None, -length)
    before[tuple(moved)] = running[tuple(kept)]
    sums: np.ndarray = running - before
    return sums
