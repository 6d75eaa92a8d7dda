"""Tiles and the tiles around them: what a slide's coordinates say of who lies beside whom."""

from __future__ import annotations

import torch
from torch import Tensor

from comel.bags.geometry import tile_cells
from comel.nn.layout.layout import Layout

__all__ = ["cells_of", "neighbour_mean"]

_MIDDLE = 4


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
    table = Layout((1, len(values)), coords.unsqueeze(0)).neighbours(3)  # (M, 9)
    padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
    there = table < len(values)
    total, count = values, values.new_ones(len(values))
    for number in range(9):
        if number != _MIDDLE:
            total = total + padded[table[:, number]]
            count = count + there[:, number]
    return total / count.unsqueeze(1)
