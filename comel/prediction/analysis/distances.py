"""How far the heads of a layer look: attention over rings of tiles around each, and around it tile by tile.

Ring k of a tile are the tiles k cells away, the larger of columns and rows counting; ring 0 is the tile itself. Only tiles that
exist count, in the attention and in what an indifferent head would give, so that holes and edges do not look like preferences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rings", "local_maps", "rings_of"]


@dataclass(frozen=True)
class Rings:
    """Attention over distance.

    Attributes:
        mass: (heads, K + 1) share of the attention that goes to each ring, a mean over queries.
        strength: (heads, K + 1) attention to one tile of a ring, over the queries that have such tiles.
        base: (K + 1,) share of the tiles that lie in each ring: the mass of a head that is indifferent.
        distance: (heads,) mean Euclidean distance of what is looked at, in cells.
        entropy: (heads,) of the rows, over that of an indifferent head; 0 for a bag of one tile.
    """

    mass: Tensor
    strength: Tensor
    base: Tensor
    distance: Tensor
    entropy: Tensor


def rings_of(rows: Tensor, queries: Tensor, cells: Tensor, largest: int | None = None) -> Rings:
    """Attention of some queries over rings.

    Args:
        rows: (heads, n, M) attention.
        queries: (n,) which tiles they are of.
        cells: (M, 2) column and row of every tile.
        largest: rings beyond count as this one; default the largest that occurs.
    """
    rows = rows.double()
    apart = (cells - cells[queries].unsqueeze(1)).abs()  # (n, M, 2)
    ring = apart.amax(dim=-1)  # (n, M)
    most = int(ring.max()) if largest is None else largest
    ring = ring.clamp_max(most)
    heads, number, count = rows.shape
    index = (torch.arange(number).unsqueeze(1) * (most + 1) + ring).flatten()
    sums = torch.zeros(heads, number * (most + 1), dtype=rows.dtype).index_add_(1, index, rows.flatten(1))
    sums = sums.view(heads, number, most + 1)
    tiles = torch.bincount(index, minlength=number * (most + 1)).view(number, most + 1).to(rows.dtype)
    there = tiles > 0
    strength = torch.where(there, sums / tiles.clamp_min(1), 0.0).sum(dim=1) / there.sum(dim=0).clamp_min(1)
    distance = (rows * apart.double().square().sum(dim=-1).sqrt()).sum(dim=-1).mean(dim=-1)
    entropy = -torch.where(rows > 0, rows * rows.log(), 0.0).sum(dim=-1).mean(dim=-1)
    entropy = entropy / torch.log(torch.tensor(float(count))) if count > 1 else torch.zeros_like(entropy)
    return Rings(sums.mean(dim=1), strength, (tiles / count).mean(dim=0), distance, entropy)


def local_maps(rows: Tensor, queries: Tensor, cells: Tensor, radius: int = 3) -> tuple[Tensor, Tensor]:
    """Attention around a tile, by offset.

    Args:
        rows: (heads, n, M) attention.
        queries: (n,) which tiles they are of.
        cells: (M, 2) column and row of every tile.
        radius: r, in cells.

    Returns:
        (heads, 2 r + 1, 2 r + 1), rows of the slide first: M times the attention to the tile there, a mean over the queries
        that have a tile there, 1 for an indifferent head; and how many have, (2 r + 1, 2 r + 1).
    """
    offset = cells - cells[queries].unsqueeze(1)  # (n, M, 2): column, row
    side = 2 * radius + 1
    near = (offset.abs() <= radius).all(dim=-1)  # (n, M)
    place = (offset[..., 1] + radius) * side + offset[..., 0] + radius
    sums = torch.zeros(len(rows), side * side, dtype=torch.float64)
    sums.index_add_(1, place[near], rows.double()[:, near] * rows.shape[-1])
    count = torch.bincount(place[near], minlength=side * side).double()
    means = sums / count.clamp_min(1)
    return means.view(-1, side, side), count.view(side, side)
