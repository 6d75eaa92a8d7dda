"""Tiles and the tiles around them: what a slide's coordinates say of who lies beside whom."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["neighbour_mean", "tile_distance"]

_OFFSETS = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]


def tile_distance(coords: Tensor) -> Tensor:
    """Distance of neighbouring tiles: the mean of the ordinary gaps between distinct positions, over both axes; a scalar.

    Positions are rounded one by one, so gaps differ by a pixel and only their mean does not drift; gaps of more than one and
    a half times the median are where tissue is missing.

    Args:
        coords: (M, 2) top-left corners in any unit, double.
    """
    gaps = torch.cat([torch.diff(torch.unique(coords[:, axis])) for axis in (0, 1)])
    if not len(gaps):
        return coords.new_ones(())
    return gaps[gaps < 1.5 * gaps.median()].mean()


def neighbour_mean(values: Tensor, coords: Tensor) -> Tensor:
    """Mean of each tile's value and those of the up to eight tiles around it, (M, C).

    Args:
        values: (M, C).
        coords: (M, 2) top-left corners of the tiles in any unit.
    """
    place = coords.double()
    cells = torch.round((place - place.amin(dim=0)) / tile_distance(place)).long()
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
