"""BPPL: pseudo-labels for instances from two prototypes of their bag (Lee et al. 2025, section 3.2; arXiv 2507.02395).

For a bag with a positive label that is predicted correctly and with confidence:

    z+ = z = sum_m a_m h_m                    the bag's feature
    z- = sum_m (1 - a_m) h_m / sum_m (1 - a_m)
    s_m = softmax over {z-, z+} of cos(h_m, z) / T
    label_m = argmax s_m, kept where max s_m > tau2
    loss = (kept / M) NLL(p, labels of the kept instances)

Two cosines differ by at most 2, so max s_m never exceeds sigmoid(2 / T): 0.881 at T = 1. A tau2 above that keeps nothing.
:func:`reachable_threshold` places a threshold relative to what can occur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PseudoLabels", "bppl_loss", "next_threshold", "pseudo_labels", "reachable_threshold", "scaled_attention"]

_PROBABILITY_FLOOR = 1e-6


@dataclass(frozen=True)
class PseudoLabels:
    """Labels of one bag's instances: ``labels`` (M,) bool, ``kept`` (M,) bool, ``confidence`` (M,) in [0.5, 1)."""

    labels: Tensor
    kept: Tensor
    confidence: Tensor

    @property
    def kept_fraction(self) -> float:
        """Share of the instances that got a label."""
        return self.kept.float().mean().item() if len(self.kept) else 0.0


@torch.no_grad()
def pseudo_labels(
    instances: Tensor, attention: Tensor, tau2: float, temperature: float = 1.0, *, centre: bool = False
) -> PseudoLabels:
    """Label a positive bag's instances by the nearer of its two prototypes; nothing here carries a gradient.

    Args:
        instances: (M, d) instance features h.
        attention: (M,) weights that sum to 1.
        tau2: keep an instance where its softmax over the two prototypes exceeds this.
        temperature: T; smaller values spread the softmax.
        centre: measure the cosines from the midpoint of the two prototypes. Instances of a bag point the same way, so that
            plain cosines hardly differ and nothing is kept; from the midpoint they use the whole range.

    Returns:
        :class:`PseudoLabels`. A bag of one instance has no second prototype, and keeps nothing.
    """
    if len(instances) < 2:
        nothing = torch.zeros(len(instances), dtype=torch.bool, device=instances.device)
        return PseudoLabels(nothing, nothing, torch.full(nothing.shape, 0.5, device=instances.device))
    rest = 1 - attention
    positive = attention @ instances
    negative = rest @ instances / rest.sum().clamp_min(_PROBABILITY_FLOOR)
    origin = (positive + negative) / 2 if centre else torch.zeros_like(positive)
    prototypes = torch.stack([negative, positive]) - origin  # (2, d)
    cosines = F.cosine_similarity((instances - origin).unsqueeze(1), prototypes.unsqueeze(0), dim=-1)  # (M, 2)
    confidence, labels = torch.softmax(cosines / temperature, dim=-1).max(dim=-1)
    return PseudoLabels(labels.bool(), confidence > tau2, confidence)


def scaled_attention(attention: Tensor) -> Tensor:
    """Attention as an instance probability inside its bag, ``(a - min a) / max a``, as published: (M,) in [0, 1)."""
    return (attention - attention.min()) / attention.max().clamp_min(torch.finfo(attention.dtype).tiny)


def bppl_loss(probability: Tensor, labels: PseudoLabels) -> Tensor:
    """``(kept / M) NLL(p, labels of the kept)``: binary cross-entropy over the kept instances, over M.

    Args:
        probability: (M,) instance probability of the positive class, clamped away from 0 and 1 here, since
            :func:`scaled_attention` is exactly 0 somewhere. The gradient flows through it alone.
        labels: from :func:`pseudo_labels`.

    Returns:
        A scalar; 0 (still attached to the graph) where nothing is kept.
    """
    # Half precision cannot hold 1 - floor, and torch refuses its own binary cross-entropy under CUDA autocast.
    p = probability if probability.dtype == torch.float64 else probability.float()
    p = p.clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    terms = -torch.where(labels.labels, p, 1 - p).log()
    return (terms * labels.kept).sum() / max(1, len(p))


def next_threshold(quality: float, tau: float) -> float:
    """tau2 after an epoch: ``(1 + tau q) / 2``, q = mean over the training bags of confidence x correct."""
    return (1 + tau * quality) / 2


def reachable_threshold(tau2: float, temperature: float) -> float:
    """A threshold given on the scale 0.5 .. 1, placed on the scale 0.5 .. sigmoid(2 / T) that can occur."""
    highest = 1 / (1 + math.exp(-2 / temperature))
    return 0.5 + (tau2 - 0.5) * (highest - 0.5) / 0.5
