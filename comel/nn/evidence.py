"""A bag's logits from two sources on one scale: the head on the pooled bag feature, and the strongest instances.

With few bags a network fits its training bags whole, and its head's logits are large and say little about new bags; the
strongest instances' logits are small and say more. A plain sum follows the louder. So when a task is learned, both are
measured on its training bags: a midpoint for each column (the mean over classes of its class means) and a spread for each
head (the root mean square of what is left, centred within a bag). From then on

    logits = share (pooled - midpoint) / spread + (evidence - midpoint') / spread'

Before, while a head learns for the first time, its logits are the pooled ones alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BagEvidence"]

_SOURCES = 2
_LEAST_SPREAD = 1e-6


class BagEvidence(nn.Module):
    """Puts the two sources together, head by head.

    Args:
        share: weight of the pooled head beside the instances.
    """

    midpoint: Tensor
    gain: Tensor
    settled: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("midpoint", torch.zeros(_SOURCES, 0))  # (2, C)
        self.register_buffer("gain", torch.zeros(_SOURCES, 0))  # (2, C), one over the spread
        self.register_buffer("settled", torch.zeros(0, dtype=torch.bool))  # (C,)

    def add_head(self, labels: int) -> None:
        """Append a head's columns, not settled yet."""
        for name in ("midpoint", "gain", "settled"):
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(*old.shape[:-1], labels)], dim=-1))

    def forward(self, pooled: Tensor, evidence: Tensor) -> Tensor:
        """``pooled`` and ``evidence`` (B, C) -> logits (B, C)."""
        both = (torch.stack([pooled, evidence]) - self.midpoint.unsqueeze(1)) * self.gain.unsqueeze(1)
        return torch.where(self.settled, self.share * both[0] + both[1], pooled)

    def settle(self, columns: slice, pooled: Tensor, evidence: Tensor, labels: Tensor) -> None:
        """Measure a head on the training bags of its task; of one class only, nothing can be measured.

        Args:
            columns: the head's.
            pooled, evidence: (n, C) of every training bag.
            labels: (n,) columns.
        """
        present = labels.unique()
        if len(present) < 2:
            return
        sources = torch.stack([pooled, evidence])[:, :, columns]  # (2, n, K)
        middle = torch.stack([sources[:, labels == column].mean(dim=1) for column in present]).mean(dim=0)  # (2, K)
        rest = sources - middle.unsqueeze(1)
        rest = rest - rest.mean(dim=-1, keepdim=True)
        spread = rest.square().mean(dim=(1, 2)).sqrt()  # (2,)
        gain = torch.where(spread > _LEAST_SPREAD, 1 / spread.clamp_min(_LEAST_SPREAD), 0)
        self.midpoint[:, columns], self.gain[:, columns] = middle, gain.unsqueeze(1)
        self.settled[columns] = True
