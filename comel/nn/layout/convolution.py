"""Depthwise convolution over a slide's tiles: a hole adds nothing, as zero padding does, and no canvas is made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["SparseDepthwise", "depthwise"]

_VALUES_ON_CPU = 1 << 18
_VALUES_ELSEWHERE = 1 << 26


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
    taps = weight.flatten(1).T  # (side^2, C)
    out: Tensor = _Depthwise.apply(x, taps, layout.neighbours(weight.shape[-1]) if table is None else table)  # type: ignore[no-untyped-call]
    return out


class _Depthwise(torch.autograd.Function):
    """The sum over the cells around, in slices of rows that stay in the processor's cache, and its gradient likewise.

    Autograd by itself would keep the neighbours of all tiles, side^2 times the instances.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, table: Tensor) -> Tensor:
        """(N, C), (side^2, C) and the rows around each (N, side^2), N for none -> (N, C)."""
        ctx.save_for_backward(x, taps, table)
        dtype = torch.promote_types(x.dtype, taps.dtype)
        padded, taps = _with_a_hole(x, dtype), taps.to(dtype).contiguous()
        out = padded.new_zeros(len(x), x.shape[1])
        for rows in _slices(x):
            for tap, near in zip(taps, table[rows].T, strict=True):
                out[rows].addcmul_(padded.index_select(0, near), tap)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Of the sum (N, C) -> of x (N, C) and of the taps (side^2, C)."""
        x, taps, table = ctx.saved_tensors
        (grad,) = grads
        padded, wide = _with_a_hole(x, grad.dtype), taps.to(grad.dtype)
        of_x, of_taps = torch.zeros_like(padded), torch.zeros_like(wide)
        for rows in _slices(x):
            part = grad[rows]
            for number, near in enumerate(table[rows].T):
                if ctx.needs_input_grad[0]:
                    of_x.index_add_(0, near, part * wide[number])
                if ctx.needs_input_grad[1]:
                    of_taps[number] += (part * padded.index_select(0, near)).sum(dim=0)
        return of_x[:-1].to(x.dtype), of_taps.to(taps.dtype), None


def _with_a_hole(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C) -> (N + 1, C), the last row zeros."""
    return torch.cat([x.to(dtype), x.new_zeros(1, x.shape[1], dtype=dtype)])


def _slices(x: Tensor) -> list[slice]:
    """The rows of x in slices: small on a processor, large on an accelerator."""
    at_once = max(1, (_VALUES_ON_CPU if x.device.type == "cpu" else _VALUES_ELSEWHERE) // x.shape[1])
    return [slice(first, first + at_once) for first in range(0, len(x), at_once)]


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
