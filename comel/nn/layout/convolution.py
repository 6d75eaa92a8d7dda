"""Depthwise convolution over a slide's tiles: a hole adds nothing, as zero padding does, and no canvas is made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["SparseDepthwise", "depthwise"]


def depthwise(x: Tensor, weight: Tensor, layout: Layout, table: Tensor | None = None) -> Tensor:
    """``y_p = sum_o weight_o x_(p + o)`` over the cells around each tile, channel by channel.

    Args:
        x: (N, C) packed rows.
        weight: (C, side, side), rows of the slide first; a correlation, as torch's convolutions are.
        layout: whose bags have coordinates.
        table: (N, side^2) the rows around each, N for none; default all that there are.

    Returns:
        (N, C).
    """
    side = weight.shape[-1]
    table = layout.neighbours(side) if table is None else table
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    taps = weight.flatten(1)  # (C, side^2)
    out = x * taps[:, side * side // 2]
    for number in range(side * side):
        if number != side * side // 2:
            out = out + padded[table[:, number]] * taps[:, number]
    return out


class SparseDepthwise(nn.Module):
    """A depthwise convolution of ``side`` x ``side`` cells.

    Args:
        channels: C.
        side: odd.
        bias: whether each tile gets one number a channel, once.
    """

    def __init__(self, channels: int, side: int = 3, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / side
        self.weight = nn.Parameter(torch.empty(channels, side, side).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, C) -> (N, C).

        Raises:
            BagError: the bags have no coordinates.
        """
        out = depthwise(x, self.weight, layout)
        return out if self.bias is None else out + self.bias
