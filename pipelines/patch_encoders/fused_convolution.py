"""A convolution and the ReLU6 after it in one pass over memory.

On a CPU a small network waits for memory rather than for arithmetic: a padded copy of each map and a clamped copy of each
result take longer than the convolutions. oneDNN, the library that computes convolutions for torch, pads and clamps while it
computes. Torch has an operator for that, which its compiler uses. If there is none, or one of another signature, torch's
ordinary functions give the same vectors, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["FusedConvolution"]

_SCHEMA = (
    "mkldnn::_convolution_pointwise(Tensor X, Tensor W, Tensor? B, int[] padding, int[] stride, int[] dilation, int groups, "
    "str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)


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
        own_operator: use torch's operator for both at once where there is one; for float32 on a CPU alone.
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
        own_operator: bool,
    ) -> None:
        super().__init__()
        # A kernel with a first row and column of zeros, on maps padded by one more: what is padded is the same on all sides.
        uneven = after - before
        weight = functional.pad(weight, (uneven, 0, uneven, 0)).contiguous(memory_format=torch.channels_last)
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.groups, self.relu6 = stride, after, groups, relu6
        self._operator = _operator() if own_operator else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if self._operator is not None:
            clamp: tuple[str, list[float]] = ("hardtanh", [0.0, 6.0]) if self.relu6 else ("none", [])
            padding, stride = [self.padding] * 2, [self.stride] * 2
            fused: torch.Tensor = self._operator(maps, self.weight, self.bias, padding, stride, [1, 1], self.groups, *clamp, "")
            return fused
        made = functional.conv2d(maps, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return functional.relu6(made, inplace=True) if self.relu6 else made


def _operator() -> Any:
    operator = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    return operator.default if operator is not None and str(operator.default._schema) == _SCHEMA else None
