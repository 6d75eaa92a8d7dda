"""Shared by both forms of CLAM (Lu et al., Nature Biomedical Engineering 2021): clustering of instances by their attention.

The B most and the B least attended instances of a bag get pseudo-labels, and a classifier of two logits per class, over the
instance features, learns them:

    the bag's own class         the B most attended are 1, the B least attended are 0
    the other classes of a head without a negative label, which exclude each other:  the B most attended are 0
    instance = mean over the classes concerned of the smooth top-1 SVM loss or the cross-entropy
    loss     = bag_weight x cross-entropy of the bag + (1 - bag_weight) x instance

In a head with a negative label only the bag's own class is clustered, as the published code does unless set to
subtype. B is at most half the bag, so that no instance is both; a bag of one instance has only a most attended one.

The smooth SVM with margin and temperature 1 (Berrada et al., ICLR 2018) is a cross-entropy whose wrong logits are raised by
the margin: ``log sum_j exp(s_j + [j is wrong]) - s_right``. It is written out here, so neither loss needs another package.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.models.base import MAX_WIDTH, BagOutput, Over
from comel.models.heads import EmbeddingOptions, HeadedModel

__all__ = ["CLAM", "CLAMHead", "CLAMOptions", "instance_term"]

InstanceLoss = Literal["svm", "cross-entropy"]


class CLAMOptions(EmbeddingOptions):
    """Settings of both forms; the defaults are the paper's."""

    dropout: float = Field(0.25, ge=0, lt=1, description="dropout after the embedding and in the attention")
    attention_hidden: int = Field(256, ge=1, le=MAX_WIDTH, description="hidden width of the gated attention")
    k_sample: int = Field(8, ge=1, le=MAX_WIDTH, description="instances at either end of the attention that get a pseudo-label")
    bag_weight: float = Field(0.7, ge=0, le=1, description="weight of the bag's loss; the instances' loss gets the rest")
    instance_loss: InstanceLoss = Field("svm", description="smooth top-1 SVM or cross-entropy")


class CLAMHead(nn.Module):
    """A task's part: bag weights per class, an instance classifier of two logits per class, and attention branches if any.

    Args:
        dim: width of the instances.
        labels: classes of the task.
        branches: input width of the classes' own attention branches; 0 for none.
    """

    def __init__(self, dim: int, labels: int, branches: int = 0) -> None:
        super().__init__()
        self.bag = nn.Linear(dim, labels)
        self.instances = nn.ModuleList(nn.Linear(dim, 2) for _ in range(labels))
        if branches:
            self.branches = nn.Linear(branches, labels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Bag features (B, dim) -> logits (B, labels)."""
        logits: Tensor = self.bag(z)
        return logits


class CLAM(HeadedModel):
    """See the module."""

    Options = CLAMOptions
    adapter_targets = ("embed", "v", "u")
    options: CLAMOptions

    @abstractmethod
    def class_attention(self, output: BagOutput) -> Tensor:
        """Attention by which a class's instances are ranked, (B, M, C)."""

    def loss(self, output: BagOutput, labels: Tensor, *, over: Over | None = None) -> dict[str, Tensor]:
        """``ce`` and ``instance``, weighted, each a mean over the bags."""
        share = self.options.bag_weight
        attention = self.class_attention(output)
        terms = []
        for b, label in enumerate(labels.tolist()):
            rows = slice(None) if output.mask is None else output.mask[b]
            terms.append(self._instance_loss(output.instance_features[b, rows], attention[b, rows], label))
        ce = self.bag_loss(output.head_logits, labels, over)
        return {"ce": share * ce, "instance": (1 - share) * torch.stack(terms).mean()}

    def _instance_loss(self, h: Tensor, attention: Tensor, label: int) -> Tensor:
        """The loss of one bag without padding: instances h (M, dim), attention (M, C)."""
        number = self.classes.head_of(label)
        start = self.classes.columns(number).start
        exclusive = self.classes.heads[number].negative is None
        classifiers = self.heads[number].instances
        terms = [
            instance_term(h, attention[:, start + i], classifier, start + i == label, self.options)
            for i, classifier in enumerate(classifiers)  # type: ignore[arg-type]
            if exclusive or start + i == label
        ]
        return torch.stack(terms).mean()


def instance_term(h: Tensor, attention: Tensor, classifier: nn.Module, own: bool, options: CLAMOptions) -> Tensor:
    """Clustering loss of one class in one bag.

    Args:
        h: (M, dim) instances.
        attention: (M,) the weights that rank them.
        classifier: (., dim) -> (., 2) logits of "not of the class", "of the class".
        own: whether the class is the bag's.
        options: ``k_sample`` and ``instance_loss``.

    Returns:
        A scalar.
    """
    if own:
        count = max(1, min(options.k_sample, len(h) // 2))
        most = attention.topk(count).indices
        least = attention.topk(count, largest=False).indices[: len(h) - count]
        chosen, targets = torch.cat([most, least]), torch.cat([torch.ones_like(most), torch.zeros_like(least)])
    else:
        chosen = attention.topk(min(options.k_sample, len(h))).indices
        targets = torch.zeros_like(chosen)
    logits = classifier(h[chosen])
    if options.instance_loss == "svm":
        logits = logits + 1 - F.one_hot(targets, 2)
    return F.cross_entropy(logits, targets)
