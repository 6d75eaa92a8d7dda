"""The instance classifier: which findings a tile shows, from its own features alone.

The GDAT blocks let every instance see its whole bag, which serves the bag's label and blurs where it comes from. This
classifier sees one tile at a time, so its score means the same on every slide; and since it sits on the frozen encoder's
features and belongs to one task, later tasks cannot change it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["InstanceClassifier", "instance_loss", "strongest"]

_ROWS_AT_ONCE = 16_384


class InstanceClassifier(nn.Module):
    """``W LayerNorm(x) + b``, starting at zero: features (B, M, D) -> logits (B, M, labels).

    Linear, because a positive bag names few of its instances: with a hidden layer some starts learn the wrong thing.

    Args:
        dimension: D.
        labels: columns of the task's head; the negative label's column is there and unused.
        dropout: on the normalised features.
    """

    def __init__(self, dimension: int, labels: int, dropout: float = 0.25) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dimension, labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """See the class; outside training in slices of the rows, so that memory does not grow with the bag."""
        if torch.is_grad_enabled():
            return self._classify(features)
        rows = features.reshape(-1, features.shape[-1]).split(_ROWS_AT_ONCE)
        return torch.cat([self._classify(part) for part in rows]).view(*features.shape[:-1], -1)

    def _classify(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm(features)))


def strongest(scores: Tensor, share: float) -> Tensor:
    """The strongest ``share`` of a bag's scores (M,), at least one."""
    return scores.topk(max(1, round(share * len(scores)))).values


def instance_loss(scores: Tensor, present: bool, share: float) -> Tensor:
    """Cross-entropy of one finding from what the bag's label says of its instances.

    A bag that does not show the finding has negative instances only; the strongest count half, lest the many easy ones
    drown them. In a bag that does, the strongest share is positive.

    Args:
        scores: (M,) instance logits.
        present: whether the bag's label is the finding.
        share: see :func:`strongest`.
    """
    top = strongest(scores, share)
    if present:
        return F.softplus(-top).mean()
    return 0.5 * (F.softplus(scores).mean() + F.softplus(top).mean())
