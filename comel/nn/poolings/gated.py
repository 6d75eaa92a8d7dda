"""Gated attention (Ilse et al., "Attention-based deep multiple instance learning", ICML 2018, eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.masked import masked_softmax

__all__ = ["GatedAttention", "GatedUnits"]


class GatedUnits(nn.Module):
    """``g_m = tanh(V h_m) * sigmoid(U h_m)``, the input of gated attention's weights; no biases.

    Args:
        dim: width of the instances.
        hidden: width of g.
        dropout: dropout on both factors.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.v = nn.Linear(dim, hidden, bias=False)
        self.u = nn.Linear(dim, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """(B, M, dim) -> (B, M, hidden)."""
        units: Tensor = self.dropout(torch.tanh(self.v(h))) * self.dropout(torch.sigmoid(self.u(h)))
        return units


class GatedAttention(nn.Module):
    """``a = softmax_m(w^T g_m)``, ``z = sum_m a_m h_m`` with g of :class:`GatedUnits`; no biases."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.units = GatedUnits(dim, hidden, dropout)
        self.w = nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (B, M, dim), mask (B, M) True for an instance -> bag features (B, dim), attention (B, M)."""
        attention = masked_softmax(self.w(self.units(h)), mask).squeeze(-1)
        return torch.einsum("bm,bmd->bd", attention, h), attention
