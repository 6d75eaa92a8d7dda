"""The Hilbert curve: an order of cells in which what is near on the list is near on the slide (Hilbert 1891)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hilbert_index"]


def hilbert_index(cells: Tensor) -> Tensor:
    """Place of each cell along the curve over a square that holds all of them.

    The place depends on the cell alone: the square's side is a power of 4, and the curve through it begins with the curve
    through a quarter of its side, where a side twice as long would turn that one over.

    Args:
        cells: (N, 2) columns and rows, from 0.

    Returns:
        (N,) int64.
    """
    x, y = cells[:, 0].clone(), cells[:, 1].clone()
    side = 1
    while len(cells) and side <= int(cells.max()):
        side *= 4
    place = torch.zeros_like(x)
    step = side // 2
    while step:
        right, below = (x & step) > 0, (y & step) > 0
        place += step * step * ((3 * right.long()) ^ below.long())
        # Turn the quadrant so that the curve inside it starts and ends where its neighbours do.
        mirrored = ~below & right
        x, y = torch.where(mirrored, side - 1 - x, x), torch.where(mirrored, side - 1 - y, y)
        x, y = torch.where(below, x, y), torch.where(below, y, x)
        step //= 2
    return place
