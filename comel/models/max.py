"""Max pooling: every instance is classified, and the bag is its most suspicious instance.

    h_m = dropout(relu(W x_m + b)),  l_m = head(h_m)
    m*  = argmax_m max_{c a finding of the head} softmax(l_m)_c
    logits of the head = l_{m*}

With a negative class this is the standard assumption of multiple instance learning: a bag is positive if one instance
is, and negative if even the most suspicious one is not (Campanella et al., Nature Medicine 2019). Without one, every class
is a finding, as in the multi-class baseline that Lu et al. (Nature Biomedical Engineering 2021) compare with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.models.base import BagBatch, BagOutput, as_batch
from comel.models.heads import UNSCORED, Embedding, EmbeddingOptions, HeadedModel
from comel.models.scores import shown_by_labels

__all__ = ["MaxPooling"]


class MaxTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim); the heads choose which of them stands for the bag."""

    def __init__(self, dimension: int, options: EmbeddingOptions) -> None:
        super().__init__()
        self.embedding = Embedding(dimension, options.dim, options.dropout)

    def forward(self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See the class."""
        instances: Tensor = self.embedding(features)
        return instances


class MaxPooling(HeadedModel):
    """See the module. Instance scores are p(class | bag) x the instance's own softmax within the head."""

    adapter_targets = ("embed",)
    options: EmbeddingOptions

    def make_trunk(self) -> nn.Module:
        """See :class:`MaxTrunk`."""
        return MaxTrunk(self.dimension, self.options)

    def forward(self, bags: BagBatch | Tensor) -> BagOutput:
        """See :class:`comel.models.base.BagOutput`.

        Attention is 1 on one instance, the one that decided for the head of the predicted class; its feature is the bag's.
        """
        bags = as_batch(bags)
        h = self.trunk(bags.features, bags.coords, bags.mask)
        instance_logits = torch.cat([head(h) for head in self.heads], dim=-1)  # (B, M, C)
        winners = self._winners(instance_logits, bags.mask)  # (B, heads)
        head_of = torch.tensor([self.classes.head_of(c) for c in range(len(self.classes))], device=h.device)
        logits = instance_logits.gather(1, winners[:, head_of].unsqueeze(1)).squeeze(1)  # (B, C)
        decisive = winners.gather(1, head_of[logits.argmax(dim=-1)].unsqueeze(-1)).squeeze(-1)  # (B,)
        attention = F.one_hot(decisive, h.shape[1]).to(h.dtype)
        z = h[torch.arange(len(h), device=h.device), decisive]
        return self.scored(BagOutput(logits, attention, UNSCORED, z, h, logits, instance_logits, bags.mask))

    def _winners(self, instance_logits: Tensor, mask: Tensor | None) -> Tensor:
        """The most suspicious instance of each bag for each head, (B, heads)."""
        chances = shown_by_labels(self.classes, instance_logits.detach())
        if mask is not None:
            chances = chances.masked_fill(~mask.unsqueeze(-1), -1)
        winners = []
        for i in range(len(self.classes.heads)):
            columns = self.classes.columns(i)
            findings = [c for c in range(columns.start, columns.stop) if self.classes.positive[c]]
            winners.append(chances[:, :, findings].amax(dim=-1).argmax(dim=1))
        return torch.stack(winners, dim=1)
