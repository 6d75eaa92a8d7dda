"""A residual pair on packed rows, for blocks that have several: an attention, then a feed-forward part, both on normalised
rows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.layout.slices import in_slices
from comel.nn.mixers.base import Width

__all__ = ["FeedForward", "Sublayer"]


class FeedForward(nn.Module):
    """``W_2 gelu(W_1 x + b_1) + b_2``; outside training in slices of the rows.

    Args:
        dim: width of the rows.
        hidden: width in between.
        dropout: at the end.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim) -> (N, dim)."""
        return in_slices(self._run, x)

    def _run(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.fc2(F.gelu(self.fc1(x))))
        return out


class Sublayer(nn.Module):
    """``x <- x + attention(LN x);  x <- x + MLP(LN x)``.

    Args:
        width: of the rows, and of the feed-forward part.
        attention: called with normalised rows (N, dim) and the layout.
        eps: of the norms.
    """

    def __init__(self, width: Width, attention: nn.Module, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width.dim, eps=eps), nn.LayerNorm(width.dim, eps=eps)
        self.attention = attention
        self.mlp = FeedForward(width.dim, width.hidden, width.dropout)
        self.dropout = nn.Dropout(width.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        x = x + self.dropout(self.attention(self.norm1(x), layout))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
