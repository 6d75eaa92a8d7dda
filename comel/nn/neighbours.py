"""Tiles and the tiles around them: what a slide's coordinates say of who lies beside whom."""

from __future__ import annotations

import torch
from torch import Tensor

from comel.bags.geometry import tile_cells

__all__ = ["cells_of", "neighbour_mean"]

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
