"""Softmax over the instances of padded bags."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_softmax"]


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the instances; padding gets 0.

    Args:
        scores: (B, M, C).
        mask: (B, M) True where there is an instance, or None.

    Returns:
        (B, M, C); each column of a bag sums to 1.
    """
    if mask is None:
        return torch.softmax(scores, dim=1)
    real = mask.unsqueeze(-1)
    return torch.softmax(scores.masked_fill(~real, torch.finfo(scores.dtype).min), dim=1) * real
