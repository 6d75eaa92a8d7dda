"""The instance classifier: which findings a tile shows, from its own features alone.

The GDAT blocks let every instance see its whole bag, which serves the bag's label and blurs where it comes from. This
classifier sees one tile at a time, so its score means the same on every slide; and since it sits on the frozen encoder's
features and belongs to one task, later tasks cannot change it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.neighbours import neighbour_mean

__all__ = ["InstanceClassifier", "instance_loss", "strongest", "strongest_of_bags", "with_surroundings"]

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
        logits: Tensor = self.linear(self.dropout(self.norm(features)))
        return logits


def strongest(scores: Tensor, share: float) -> Tensor:
    """The strongest ``share`` of a bag's scores (M,), at least one."""
    return scores.topk(max(1, round(share * len(scores)))).values


def strongest_of_bags(logits: Tensor, findings: Sequence[bool], share: float, mask: Tensor | None = None) -> Tensor:
    """What the strongest instances say of each finding: their mean logit, (B, C); 0 for columns that are no finding.

    Args:
        logits: (B, M, C).
        findings: (C,) which columns are findings.
        share: see :func:`strongest`.
        mask: (B, M) True where there is an instance, or None.
    """
    rows = []
    for b, bag in enumerate(logits):
        real = bag if mask is None else bag[mask[b]]
        zero = real.new_zeros(())
        means = [strongest(real[:, c], share).mean() if is_one and len(real) else zero for c, is_one in enumerate(findings)]
        rows.append(torch.stack(means))
    return torch.stack(rows)


def with_surroundings(logits: Tensor, coords: Tensor, share: float, mask: Tensor | None = None) -> Tensor:
    """Instance logits drawn towards the mean of the tiles around, (B, M, C): a finding is seldom one tile large.

    Args:
        logits: (B, M, C).
        coords: (B, M, 2) top-left corners of the tiles.
        share: weight of the mean over a tile and its neighbours, from 0 to 1.
        mask: (B, M) True where there is an instance, or None.
    """
    rows = []
    for b, own in enumerate(logits):
        real = torch.ones(len(own), dtype=torch.bool, device=own.device) if mask is None else mask[b]
        around = own.clone()
        if real.any():
            around[real] = neighbour_mean(own[real], coords[b, real])
        rows.append((1 - share) * own + share * around)
    return torch.stack(rows)


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
