"""Models with a trunk that all tasks share and one module per task on top of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.cohort.classes import Head
from comel.models.base import MAX_WIDTH, BagBatch, BagOutput, MILModel, ModelOptions, Over, as_batch, cross_entropy
from comel.models.scores import compose_scores, shown_by_attention, shown_by_labels

__all__ = ["UNSCORED", "Embedding", "EmbeddingOptions", "HeadedModel", "PooledTrunk", "initialise"]

UNSCORED = torch.empty(0)
"""Instance scores of an output that :meth:`HeadedModel.scored` has not filled in yet."""

_Output = TypeVar("_Output", bound=BagOutput)


class EmbeddingOptions(ModelOptions):
    """Settings of a model that begins with an :class:`Embedding`."""

    dim: int = Field(512, ge=1, le=MAX_WIDTH, description="width of the network")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout after the embedding")


class Embedding(nn.Module):
    """``h = dropout(relu(W x + b))``: features (..., D) -> instances (..., dim)."""

    def __init__(self, dimension: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(dimension, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        instances: Tensor = self.dropout(F.relu(self.embed(features)))
        return instances


class PooledTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim), bag feature (B, dim), attention (B, M).

    Args:
        embedding: features to instances, one by one.
        pool: instances and mask to bag feature and attention.
    """

    def __init__(self, embedding: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.embedding, self.pool = embedding, pool

    def forward(
        self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        h = self.embedding(features)
        z, attention = self.pool(h, mask)
        return h, z, attention


class HeadedModel(MILModel):
    """A trunk and one module per task; by default, a linear layer over the bag feature.

    A model defines its trunk, ``trunk(features, coords, mask) -> (instances (B, M, dim), bag feature (B, dim),
    attention (B, M))``, and, if its heads are more than linear, what they are and how they are used.

    Args:
        dimension: D, length of a feature vector.
        options: the class's ``Options``; default their defaults.
        heads: the initial heads.
    """

    Options: ClassVar[type[ModelOptions]] = EmbeddingOptions

    def __init__(self, dimension: int, options: Any = None, heads: Iterable[Head] = ()) -> None:
        super().__init__(dimension)
        self.options = options or self.Options()
        self.trunk = self.make_trunk()
        self.trunk.apply(initialise)
        self.heads = nn.ModuleList()
        for head in heads:
            self.add_head(head)

    @abstractmethod
    def make_trunk(self) -> nn.Module:
        """The part that all tasks share."""

    def make_head(self, labels: int) -> nn.Module:
        """The module of one task with ``labels`` labels."""
        return nn.Linear(self.options.dim, labels)  # type: ignore[attr-defined]

    def add_head(self, head: Head) -> None:
        """Append a task's module; Xavier-normal weights, zero biases."""
        place = next(self.trunk.parameters())
        self.heads.append(self.make_head(len(head.labels)).apply(initialise).to(place.device, place.dtype))
        super().add_head(head)

    def head_parameters(self, head: int) -> list[nn.Parameter]:
        """The parameters of a task's module."""
        return list(self.heads[head].parameters())

    def forward(self, bags: BagBatch | Tensor) -> BagOutput:
        """See :class:`comel.models.base.BagOutput`."""
        bags = as_batch(bags)
        h, z, attention = self.trunk(bags.features, bags.coords, bags.mask)
        logits = torch.cat([head(z) for head in self.heads], dim=-1)  # (B, C)
        return self.scored(BagOutput(logits, attention, UNSCORED, z, h, logits, mask=bags.mask))

    def loss(self, output: BagOutput, labels: Tensor, *, over: Over | None = None) -> dict[str, Tensor]:
        """``ce``: cross-entropy of the bags' labels, a mean over the bags."""
        return {"ce": self.bag_loss(output.head_logits, labels, over)}

    def bag_loss(self, logits: Tensor, labels: Tensor, over: Over | None) -> Tensor:
        """Mean over the bags of :func:`comel.models.base.cross_entropy`; logits (B, C), labels (B,)."""
        terms = [cross_entropy(self, row, label, over)[0] for row, label in zip(logits, labels.tolist(), strict=True)]
        return torch.stack(terms).mean()

    def shown(self, output: BagOutput) -> Tensor:
        """Each instance's share of each class, (B, M, C) in [0, 1]: from its own logits if any, otherwise from attention."""
        if output.instance_logits is not None:
            return shown_by_labels(self.classes, output.instance_logits)
        attention = shown_by_attention(output.attention.unsqueeze(-1), output.mask)
        return attention.expand(-1, -1, len(self.classes))

    def scored(self, output: _Output) -> _Output:
        """The output with its instance scores filled in, from its other values."""
        scores = compose_scores(self.classes, self.probabilities(output), self.shown(output), output.mask)
        return replace(output, instance_scores=scores)

    def with_task(self, output: BagOutput, head: int) -> BagOutput:
        """See the base class; computed from the probabilities within the head."""
        scores = compose_scores(self.classes, self.probabilities(output, head), self.shown(output), output.mask)
        return replace(output, instance_scores=scores)


def initialise(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases of linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
