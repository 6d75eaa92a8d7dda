"""Learned tables over a slide: linear interpolation at a tile's place, and bins that may overlap.

Both follow torch's conventions for pictures, ``interpolate`` (half-pixel centres) and ``adaptive_avg_pool``, of which they
are the values where the tiles fill a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bin_members", "linear_weights"]


def linear_weights(places: Tensor, length: int) -> Tensor:
    """How much each of ``length`` entries of a table, evenly over [0, 1], counts at some places.

    Args:
        places: (N,) in (0, 1).
        length: of the table.

    Returns:
        (N, length); each row sums to 1, with at most two entries.
    """
    at = (places * length - 0.5).clamp(0, length - 1).unsqueeze(1)
    entries = torch.arange(length, device=places.device, dtype=places.dtype)
    return (1 - (at - entries).abs()).clamp_min(0)


def bin_members(cells: Tensor, size: int, bins: int) -> Tensor:
    """Which of ``bins`` bins of an axis each cell lies in: bin i runs from floor(i size / bins) to ceil((i + 1) size / bins).

    Args:
        cells: (N,) from 0 to ``size - 1``.
        size: cells of the axis.
        bins: how many; they overlap where they do not divide ``size``.

    Returns:
        (N, bins) bool.
    """
    number = torch.arange(bins, device=cells.device)
    first, end = number * size // bins, -((number + 1) * size // -bins)
    cell = cells.unsqueeze(1)
    return (cell >= first) & (cell < end)
