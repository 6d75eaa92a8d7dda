"""Attention pooling (Ilse et al. 2018): a bag's feature as a weighted mean of its instances."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AttentionPooling"]


class AttentionPooling(nn.Module):
    """``a = softmax_m(w^T tanh(V h_m))``, ``z = sum_m a_m h_m``; no biases.

    Args:
        dim: width of the instances.
        hidden: width of the attention's hidden layer.
    """

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.v = nn.Linear(dim, hidden, bias=False)
        self.w = nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (B, M, dim), mask (B, M) True where there is an instance -> bag features (B, dim), attention (B, M)."""
        scores = self.w(torch.tanh(self.v(h))).squeeze(-1)  # (B, M)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        attention = torch.softmax(scores, dim=-1)
        if mask is not None:
            attention = attention * mask
        return torch.einsum("bm,bmd->bd", attention, h), attention
