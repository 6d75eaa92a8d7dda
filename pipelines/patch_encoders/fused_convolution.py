"""A convolution and the ReLU6 after it in one pass over memory.

On a CPU a small network waits for memory rather than for arithmetic: a padded copy of each map and a clamped copy of each
result take longer than the convolutions. oneDNN, the library that computes convolutions for torch, pads and clamps while it
computes, and wants weights in an order of its own, which is made once. Torch has operators for both, which its compiler uses.
If they are missing, or take other arguments, torch's ordinary functions give the same vectors, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["FusedConvolution"]

_OPERATORS = {
    "_convolution_pointwise": "X W B padding stride dilation groups attr scalars algorithm",
    "_reorder_convolution_weight": "self padding stride dilation groups input_size",
}


class FusedConvolution(nn.Module):
    """Maps (B, C, H, W) -> maps (B, D, H', W'), channels last.

    Args:
        weight: (D, C / groups, k, k).
        bias: (D,).
        stride: the same in both directions.
        before: rows and columns of zeros above and left of the maps.
        after: those below and right: as many, or one more, as TensorFlow pads where the stride is 2.
        groups: C for a convolution of each channel by itself.
        relu6: clamp to 0..6.
        own_operators: use torch's operators for both at once, if there are any; for float32 on a CPU alone.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        *,
        stride: int,
        before: int,
        after: int,
        groups: int = 1,
        relu6: bool,
        own_operators: bool,
    ) -> None:
        super().__init__()
        # A kernel with a first row and column of zeros, on maps padded by one more: what is padded is the same on all sides.
        uneven = after - before
        weight = functional.pad(weight, (uneven, 0, uneven, 0)).contiguous(memory_format=torch.channels_last)
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.groups, self.relu6 = stride, after, groups, relu6
        self._operators = _operators() if own_operators else None
        self._ordered: torch.Tensor | None = None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if self._operators is not None:
            compute, order = self._operators
            clamp: tuple[str, list[float]] = ("hardtanh", [0.0, 6.0]) if self.relu6 else ("none", [])
            padding, stride, dilation = [self.padding] * 2, [self.stride] * 2, [1, 1]
            if self._ordered is None:
                self._ordered = order(self.weight, padding, stride, dilation, self.groups, list(maps.shape))
            fused: torch.Tensor = compute(maps, self._ordered, self.bias, padding, stride, dilation, self.groups, *clamp, "")
            return fused
        made = functional.conv2d(maps, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return functional.relu6(made, inplace=True) if self.relu6 else made


def _operators() -> tuple[Any, Any] | None:
    """What computes, and what brings weights in order for the size of the maps."""
    found = []
    for name, arguments in _OPERATORS.items():
        operator = getattr(torch.ops.mkldnn, name, None)
        if operator is None or [argument.name for argument in operator.default._schema.arguments] != arguments.split():
            return None
        found.append(operator.default)
    return found[0], found[1]
