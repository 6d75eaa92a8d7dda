"""Instance scores that mean the same on every slide, for every model: the bag's probability times the instance's share.

An instance can show a finding only if its bag does, so a slide predicted normal stays dark.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comel.cohort.classes import ClassSpace
from comel.nn.bppl import scaled_attention

__all__ = ["compose_scores", "shown_by_attention", "shown_by_labels"]


def compose_scores(classes: ClassSpace, probability: Tensor, shown: Tensor, mask: Tensor | None = None) -> Tensor:
    """``p(class | bag) x p(instance shows it | bag does)``; for a negative class, p(its head) x (1 - the clearest finding).

    Args:
        classes: heads and their negative labels.
        probability: (B, C) the bags' probabilities.
        shown: (B, M, C) in [0, 1], each instance's share of each class; columns of negative classes are not used.
        mask: (B, M) True for an instance; other rows score 0.

    Returns:
        (B, M, C) in [0, 1].
    """
    scores = probability.unsqueeze(1) * shown
    for i, head in enumerate(classes.heads):
        if head.negative is None:
            continue
        columns = classes.columns(i)
        negative = columns.start + head.labels.index(head.negative)
        findings = [c for c in range(columns.start, columns.stop) if c != negative]
        clearest = shown[:, :, findings].amax(dim=-1)
        scores[:, :, negative] = probability[:, columns].sum(dim=-1, keepdim=True) * (1 - clearest)
    return scores if mask is None else scores * mask.unsqueeze(-1)


def shown_by_attention(attention: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention scaled in its bag, ``(a - min a) / max a`` (:func:`comel.nn.bppl.scaled_attention`); padding gets 0.

    The only instance of a bag of one gets 1.

    Args:
        attention: (B, M, C), one column per class.
        mask: (B, M) bool.

    Returns:
        (B, M, C) in [0, 1].
    """
    shown = torch.zeros_like(attention)
    for b in range(len(attention)):
        rows = slice(None) if mask is None else mask[b]
        bag = attention[b, rows]  # (instances, C)
        if len(bag) == 1:
            shown[b, rows] = 1
        elif len(bag):
            shown[b, rows] = torch.stack([scaled_attention(column) for column in bag.unbind(dim=-1)], dim=-1)
    return shown


def shown_by_labels(classes: ClassSpace, instance_logits: Tensor) -> Tensor:
    """The softmax of an instance classifier's logits (B, M, C) within each head: every instance is classified by itself."""
    columns = [classes.columns(i) for i in range(len(classes.heads))]
    return torch.cat([torch.softmax(instance_logits[:, :, c], dim=-1) for c in columns], dim=-1)
