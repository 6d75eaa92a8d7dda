"""Tiles and the tiles around them: what a slide's coordinates say of who lies beside whom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from comel.bags.geometry import tile_cells

__all__ = ["cells_of", "neighbour_mean", "pieces", "sums_around"]

_OFFSETS = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]


def cells_of(coords: Tensor) -> Tensor:
    """Column and row of each tile as :func:`comel.bags.geometry.tile_cells` gives them, (M, 2) on the device of ``coords``.

    Args:
        coords: (M, 2) top-left corners of the tiles in any unit.
    """
    return torch.from_numpy(tile_cells(coords.detach().cpu().numpy())).to(coords.device)


def neighbour_mean(values: Tensor, coords: Tensor) -> Tensor:
    """Mean of each tile's value and those of the up to eight tiles around it, (M, C).

    Where tiles of two pieces of tissue lie in one cell, their neighbours see one of them.

    Args:
        values: (M, C).
        coords: (M, 2) top-left corners of the tiles in any unit.
    """
    cells = cells_of(coords)
    width = int(cells[:, 0].max()) + 3
    key = (cells[:, 1] + 1) * width + cells[:, 0] + 1  # (M,), a free column on either side
    ordered, order = torch.sort(key)
    wanted = torch.stack([key + dy * width + dx for dx, dy in _OFFSETS])  # (8, M)
    found = torch.searchsorted(ordered, wanted).clamp_max(len(key) - 1)
    there = ordered[found] == wanted  # (8, M)
    total, count = values, values.new_ones(len(values))
    for row, present in zip(order[found], there, strict=True):
        total = total + values[row] * present.unsqueeze(1)
        count = count + present
    return total / count.unsqueeze(1)


def sums_around(values: Tensor, cells: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Sum over the tiles at most ``radius`` columns and rows away, itself left out: (M, C) and their number (M,).

    Rows of the slide are runs of a sorted list, so memory grows with the tiles and not with the slide.

    Args:
        values: (M, C).
        cells: (M, 2) from :func:`cells_of`.
        radius: in tiles.
    """
    width = int(cells[:, 0].max()) + 1 + 2 * radius
    key = cells[:, 1] * width + cells[:, 0] + radius  # (M,), free columns on either side
    ordered, order = torch.sort(key)
    running = torch.cat([values.new_zeros(1, values.shape[1], dtype=torch.float64), values[order].double().cumsum(dim=0)])
    total, number = -values.double(), torch.full_like(key, -1)
    for row in range(-radius, radius + 1):
        first = torch.searchsorted(ordered, key + row * width - radius)
        end = torch.searchsorted(ordered, key + row * width + radius, right=True)
        total = total + running[end] - running[first]
        number = number + end - first
    return total.to(values.dtype), number


def pieces(chosen: Tensor, cells: Tensor) -> np.ndarray:
    """How many tiles each connected piece of the chosen tiles has, largest first; corners connect.

    Args:
        chosen: (M,) bool.
        cells: (M, 2) from :func:`cells_of`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    places = cells[chosen]
    if not len(places):
        return np.zeros(0, np.int64)
    width = int(cells[:, 0].max()) + 3
    ordered = torch.unique(places[:, 1] * width + places[:, 0] + 1)
    beginnings, ends = [], []
    for step in (1, width - 1, width, width + 1):
        found = torch.searchsorted(ordered, ordered + step).clamp_max(len(ordered) - 1)
        there = ordered[found] == ordered + step
        beginnings.append(there.nonzero().squeeze(1))
        ends.append(found[there])
    rows, columns = torch.cat(beginnings).cpu().numpy(), torch.cat(ends).cpu().numpy()
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(ordered), len(ordered)))
    _, piece = connected_components(graph, directed=False)
    sizes: np.ndarray = np.sort(np.bincount(piece))[::-1]
    return sizes
