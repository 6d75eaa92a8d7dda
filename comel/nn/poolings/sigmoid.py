"""Sigmoid attention pooling: weights that do not compete (Ramapuram et al., ICLR 2025, arXiv 2409.04431, for one query).

    a_m = sigmoid(w^T tanh(V h_m) - ln M),   z = sum_m a_m h_m

The bias -ln M keeps the sum of the weights near 1 for any number of instances M. A bag without anything relevant keeps all
low, which a softmax cannot; there z is small. The weights that are handed on are divided by their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comel.nn.poolings.attention import AttentionPooling

__all__ = ["SigmoidPooling"]


class SigmoidPooling(AttentionPooling):
    """See the module; weights and arguments as :class:`~comel.nn.poolings.attention.AttentionPooling` has them."""

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (B, M, dim), mask (B, M) -> bag features (B, dim), shares of the weights (B, M)."""
        scores = self.w(torch.tanh(self.v(h))).squeeze(-1)  # (B, M)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if mask is None:
            weights = torch.sigmoid(scores - torch.log(scores.new_tensor(h.shape[1])))
        else:
            count = mask.sum(dim=1, keepdim=True).clamp_min(1).to(scores.dtype)
            weights = torch.sigmoid(scores - count.log()) * mask
        z = torch.einsum("bm,bmd->bd", weights.to(h.dtype), h)
        return z, weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
