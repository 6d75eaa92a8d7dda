"""Depthwise convolution over a slide's tiles: a hole adds nothing, as zero padding does, and no canvas is made."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["SparseDepthwise", "depthwise", "weigh"]

_ROWS_AT_ONCE = 512
"""Rows of one slice without gradients: they stay in the processor's cache over all cells."""


def depthwise(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """``y_p = sum_o weight_o x_(p + o)`` over the cells around each tile, channel by channel.

    Args:
        x: (N, C) packed rows.
        weight: (C, side, side), rows of the slide first; a correlation, as torch's convolutions are.
        layout: whose bags have coordinates.

    Returns:
        (N, C).
    """
    return weigh(x, layout.neighbours(weight.shape[-1]), weight.flatten(1).T.contiguous())


def weigh(x: Tensor, table: Tensor, taps: Tensor) -> Tensor:
    """``y_n = sum_o taps_o x_table(n, o)``, channel by channel.

    Args:
        x: (N, C).
        table: (N, K) the rows that each row weighs, N for none; K is odd, and the row itself is in the middle.
        taps: (K, C).

    Returns:
        (N, C).
    """
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    own = len(taps) // 2
    if torch.is_grad_enabled():
        out = x * taps[own]
        for number in range(len(taps)):
            if number != own:
                out = out + padded.index_select(0, table[:, number]) * taps[number]
        return out
    outs = []
    for rows, beside in zip(x.split(_ROWS_AT_ONCE), table.split(_ROWS_AT_ONCE), strict=True):
        out = rows * taps[own]
        for number in range(len(taps)):
            if number != own:
                out.addcmul_(padded.index_select(0, beside[:, number]), taps[number])
        outs.append(out)
    return torch.cat(outs)


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
