"""Tokens split over attention heads."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["TokenConvolution", "merge_heads", "split_heads"]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, n, dim) -> (B, heads, n, dim / heads)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, n, dim / heads) -> (B, n, dim)."""
    return x.transpose(1, 2).flatten(2)


class TokenConvolution(nn.Module):
    """A convolution along the tokens, one kernel per head for all its channels; beyond the ends there are zeros.

    Args:
        num_heads: attention heads.
        kernel: tokens that it spans; odd.
    """

    def __init__(self, num_heads: int, kernel: int) -> None:
        super().__init__()
        # In two dimensions, since the backward pass of Conv1d takes many times as long on a CPU.
        self.kernels = nn.Conv2d(num_heads, num_heads, (kernel, 1), padding=(kernel // 2, 0), groups=num_heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, n, d) -> (B, heads, n, d)."""
        convolved: Tensor = self.kernels(x)
        return convolved
