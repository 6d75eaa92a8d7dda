"""Depthwise convolution over a slide's tiles: a hole adds nothing, as zero padding does, and no canvas is made."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["SparseDepthwise", "depthwise", "dynamic_depthwise", "weigh"]

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
    return weigh(x, layout.neighbours(weight.shape[-1]) if table is None else table, weight.flatten(1).T)


def weigh(x: Tensor, table: Tensor, taps: Tensor) -> Tensor:
    """``y_n = sum_o taps_o x_table(n, o)``, channel by channel.

    Args:
        x: (N, C).
        table: (N, K) the rows that each row weighs, N for none.
        taps: (K, C).

    Returns:
        (N, C).
    """
    out: Tensor = _Depthwise.apply(x, taps, table)  # type: ignore[no-untyped-call]
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


def dynamic_depthwise(x: Tensor, kernels: Tensor, layout: Layout) -> Tensor:
    """``y_p = sum_o kernels_p,o x_(p + o)``: a kernel of its own for each tile, shared by the channels of a group.

    Args:
        x: (N, C) packed rows.
        kernels: (N, groups, side^2), the cells row by row from the top left; group g has the channels from g C / groups on.
        layout: whose bags have coordinates.

    Returns:
        (N, C).
    """
    side = math.isqrt(kernels.shape[2])
    out: Tensor = _DynamicDepthwise.apply(x, kernels, layout.neighbours(side))  # type: ignore[no-untyped-call]
    return out


class _DynamicDepthwise(torch.autograd.Function):
    """As :class:`_Depthwise`, with kernels (N, groups, side^2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, table: Tensor) -> Tensor:
        """(N, C), (N, groups, side^2) and the rows around each (N, side^2), N for none -> (N, C)."""
        ctx.save_for_backward(x, kernels, table)
        dtype = torch.promote_types(x.dtype, kernels.dtype)
        padded = _with_a_hole(x, dtype)
        out = padded.new_zeros(len(x), kernels.shape[1], x.shape[1] // kernels.shape[1])
        for rows in _slices(x):
            taps = kernels[rows].to(dtype).permute(2, 0, 1).unsqueeze(-1).contiguous()  # (side^2, n, groups, 1)
            for tap, near in zip(taps, table[rows].T, strict=True):
                out[rows].addcmul_(padded.index_select(0, near).view_as(out[rows]), tap)
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Of the sum (N, C) -> of x (N, C) and of the kernels (N, groups, side^2)."""
        x, kernels, table = ctx.saved_tensors
        grad = grads[0].view(len(x), kernels.shape[1], -1)  # (N, groups, C / groups)
        padded = _with_a_hole(x, grad.dtype)
        of_x, of_kernels = torch.zeros_like(padded), torch.zeros_like(kernels)
        for rows in _slices(x):
            part, own = grad[rows], kernels[rows].to(grad.dtype)
            for number, near in enumerate(table[rows].T):
                of_x.index_add_(0, near, (part * own[:, :, number, None]).flatten(1))
                of_kernels[rows, :, number] = (part * padded.index_select(0, near).view_as(part)).sum(dim=-1).to(kernels.dtype)
        return of_x[:-1].to(x.dtype), of_kernels, None


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

    def forward(self, x: Tensor, layout: Layout, channels: slice | None = None) -> Tensor:
        """(N, C) -> (N, C), or some of the channels if their values are given alone.

        Raises:
            BagError: the bags have no coordinates.
        """
        chosen = slice(None) if channels is None else channels
        out = depthwise(x, self.weight[chosen], layout)
        return out if self.bias is None else out + self.bias[chosen]
