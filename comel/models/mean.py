"""Mean pooling: every instance is classified, and the bag is their mean.

    h_m = dropout(relu(W x_m + b))
    z   = mean_m h_m
    logits = head(z) = mean_m head(h_m)

The last equality holds because heads are linear, so each instance has its own logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.models.base import BagBatch, BagOutput, as_batch
from comel.models.heads import UNSCORED, Embedding, EmbeddingOptions, HeadedModel

__all__ = ["MeanPooling"]


class MeanTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim), their mean (B, dim), uniform attention (B, M)."""

    def __init__(self, dimension: int, options: EmbeddingOptions) -> None:
        super().__init__()
        self.embedding = Embedding(dimension, options.dim, options.dropout)

    def forward(
        self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        h = self.embedding(features)
        real = h.new_ones(h.shape[:2]) if mask is None else mask.to(h.dtype)
        attention = real / real.sum(dim=1, keepdim=True).clamp_min(1)
        return h, torch.einsum("bm,bmd->bd", attention, h), attention


class MeanPooling(HeadedModel):
    """See the module. Instance scores are p(class | bag) x the instance's own softmax within the head."""

    adapter_targets = ("embed",)
    options: EmbeddingOptions

    def make_trunk(self) -> nn.Module:
        """See :class:`MeanTrunk`."""
        return MeanTrunk(self.dimension, self.options)

    def forward(self, bags: BagBatch | Tensor) -> BagOutput:
        """See :class:`comel.models.base.BagOutput`; attention is uniform."""
        bags = as_batch(bags)
        h, z, attention = self.trunk(bags.features, bags.coords, bags.mask)
        logits = torch.cat([head(z) for head in self.heads], dim=-1)  # (B, C)
        instance_logits = torch.cat([head(h) for head in self.heads], dim=-1)  # (B, M, C)
        return self.scored(BagOutput(logits, attention, UNSCORED, z, h, logits, instance_logits, bags.mask))
