"""Squares of tiles that overlap: an instance lies in one or several of them."""

from __future__ import annotations

import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments

__all__ = ["overlapping_squares"]


def overlapping_squares(layout: Layout, side: int, overlap: int) -> tuple[Tensor, Segments]:
    """Squares that cover each bag's box, ``side - overlap`` cells apart; the last of a line is moved inwards to its end.

    Args:
        layout: whose bags have coordinates.
        side: of a square, in cells.
        overlap: cells that a square shares with the next, less than ``side``.

    Returns:
        (P,) instances, each as often as there are squares that hold it, and the squares as segments of these P.
    """
    step = side - overlap
    most = (layout.box - side).clamp_min(0)[layout.bag]  # (N, 2) where the last square starts
    last = (most + step - 1) // step  # (N, 2) its number
    per_axis = []
    for axis in (0, 1):
        cell, end = layout.cells[:, axis], last[:, axis]
        choices = [(end, cell >= most[:, axis])]
        for back in range(-(-side // step)):
            number = cell // step - back
            choices.append((number, (number >= 0) & (number < end) & (cell < number * step + side)))
        per_axis.append(choices)
    width = int(last.max()) + 1 if len(layout) else 1
    rows, keys = [], []
    for column, has_column in per_axis[0]:
        for row, has_row in per_axis[1]:
            at = (has_column & has_row).nonzero().squeeze(1)
            rows.append(at)
            keys.append((layout.bag[at] * width + row[at]) * width + column[at])
    found = torch.cat(rows)
    return found, Segments(torch.cat(keys), layout.bag[found])
