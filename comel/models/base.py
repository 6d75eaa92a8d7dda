"""The contract of every multiple instance learning model.

A model takes bags and gives, for every class it knows, a bag logit and a score for each instance. It owns the terms of its
loss. Its classes grow by heads: ``add_head`` appends columns and never moves the old ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn

from comel.cohort.classes import ClassSpace, Head

__all__ = ["MAX_WIDTH", "AttentionOptions", "BagBatch", "BagOutput", "MILModel", "ModelOptions", "Over", "cross_entropy"]

Over = Literal["task", "seen"]

MAX_WIDTH = 65536
"""The largest width of a layer; settings may come from an untrusted run."""


class ModelOptions(BaseModel):
    """Settings that every model has.

    Attributes:
        earlier: for each setting added later, the value that reproduces the earlier model.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    earlier: ClassVar[Mapping[str, Any]] = {}

    loss_over: Over = Field("seen", description="columns the cross-entropy runs over")


class AttentionOptions(ModelOptions):
    """Settings that every model with attention heads has."""

    dim: int = Field(512, ge=1, le=MAX_WIDTH, description="width of the network")
    num_heads: int = Field(8, ge=1, le=MAX_WIDTH, validate_default=True, description="attention heads")

    @field_validator("num_heads")
    @classmethod
    def _heads_divide_dim(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("dim", heads) % heads:
            raise ValueError(f"dim {info.data['dim']} is not a multiple of {heads} heads")
        return heads


@dataclass(frozen=True)
class BagBatch:
    """A batch of bags.

    Attributes:
        features: (B, M, D) float32.
        coords: (B, M, 2) level-0 top-left pixels (x, y), or None.
        mask: (B, M) bool, True for an instance; None if all bags have M.
    """

    features: Tensor
    coords: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device | str) -> BagBatch:
        """The same bags on a device."""
        return BagBatch(*(None if x is None else x.to(device) for x in (self.features, self.coords, self.mask)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class BagOutput:
    """A model's output for B bags of M instances over C classes.

    Attributes:
        logits: (B, C); their softmax is the probability of each class.
        attention: (B, M) weights of the instances in the bag feature, each row sums to 1.
        instance_scores: (B, M, C) in [0, 1]; they mean the same on every slide.
        bag_features: (B, d).
        instance_features: (B, M, d).
        head_logits: (B, C) each head's own logits, comparable only within a head. The same tensor as ``logits`` if the
            heads are not combined differently.
        instance_logits: (B, M, C) of an instance classifier, or None.
        mask: as in :class:`BagBatch`.
    """

    logits: Tensor
    attention: Tensor
    instance_scores: Tensor
    bag_features: Tensor
    instance_features: Tensor
    head_logits: Tensor
    instance_logits: Tensor | None = None
    mask: Tensor | None = None


class MILModel(nn.Module, ABC):
    """The base class of all models.

    Attributes:
        Options: its pydantic settings; their defaults are the model's defaults.
        trunk: the part shared by all tasks, called as ``trunk(features, coords, mask)``, which adapters may wrap;
            ``adapter_targets`` names its linear layers, by the
            end of their names.
        head_lr_scale: learning rate of heads over the trunk's.
    """

    Options: ClassVar[type[ModelOptions]] = ModelOptions
    adapter_targets: tuple[str, ...] = ()
    head_lr_scale: Any = 1.0
    options: ModelOptions
    trunk: nn.Module

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.classes = ClassSpace(())
        self.register_buffer("temperature", torch.ones(0))  # (heads,)

    temperature: Tensor

    def add_head(self, head: Head) -> None:
        """Append a head's columns; models add the head's modules and call this."""
        self.temperature = torch.cat([self.temperature, self.temperature.new_ones(1)])
        self.classes = self.classes.of([*self.classes.heads, head])

    @abstractmethod
    def head_parameters(self, head: int) -> list[nn.Parameter]:
        """The parameters that belong to head number ``head`` alone."""

    @abstractmethod
    def forward(self, bags: BagBatch | Tensor) -> BagOutput:
        """See :class:`BagOutput`. A bare tensor is (B, M, D) features."""

    def distance(self, bags: BagBatch, head: int | None = None) -> Tensor | None:
        """(B,) distance of bags from the bags of every class learned, or of one head's; see :mod:`comel.scoring.novelty`.

        None if the model keeps no statistics of what it has learned.
        """
        return None

    @abstractmethod
    def loss(self, output: BagOutput, labels: Tensor, *, over: Over | None = None) -> dict[str, Tensor]:
        """The model's loss terms by name, to be summed.

        Args:
            output: from :meth:`forward`.
            labels: (B,) columns.
            over: columns the cross-entropy of the bag's label runs over: those of its own ``task``, or of all tasks ``seen``.
                Default ``options.loss_over``.
        """

    @property
    def uses_places(self) -> bool:
        """Whether an answer depends on where the tiles lie to each other, where a bag says so."""
        return False

    def end_epoch(self) -> dict[str, float]:
        """Called after each epoch; returns measures to report."""
        return {}

    def end_task(self, bags: Iterable[tuple[BagBatch, int]]) -> None:
        """Called in evaluation mode once a stage is learned, with its training bags (B = 1) and the columns of their labels.

        ``bags`` may be iterated several times.
        """

    @contextmanager
    def network(self) -> Iterator[None]:
        """Inside the block, the model uses only gradient-trained weights, nothing else fitted to bags.

        For strategies that distil the network or measure the importance of its weights.
        """
        yield

    def probabilities(self, output: BagOutput, head: int | None = None) -> Tensor:
        """Class probabilities (B, C); if ``head`` is given, within that head and 0 elsewhere."""
        if head is None and len(self.classes.heads) > 1:
            return torch.softmax(output.logits, dim=-1)
        head = head or 0
        columns = self.classes.columns(head)
        result = torch.zeros_like(output.logits)
        result[:, columns] = torch.softmax(output.head_logits[:, columns] / self.temperature[head], dim=-1)
        return result

    def temper(self, head: int, temperature: float) -> None:
        """Set the temperature that divides a head's logits before the softmax."""
        self.temperature[head] = temperature

    def calibrate(self, head: int, threshold: float) -> float:
        """Called with the best validation threshold on :meth:`evidence`, task given; returns the threshold to use.

        A model that can shift its scores does so instead and returns 0.5.
        """
        return threshold

    def with_task(self, output: BagOutput, head: int) -> BagOutput:
        """The output with instance scores for a given task.

        The head then has probability 1, however unlikely the model considers it, and the classes of other heads score 0.
        """
        joint, within = self.probabilities(output), self.probabilities(output, head)
        scores = output.instance_scores * (within / joint.clamp_min(1e-12)).unsqueeze(1)
        return replace(output, instance_scores=scores.clamp(0, 1))

    def evidence(self, output: BagOutput, head: int) -> Tensor:
        """One score per instance, (B, M) in [0, 1]: the strongest of the head's findings.

        Args:
            output: from :meth:`forward`, or :meth:`with_task`.
            head: the head whose findings count.
        """
        columns = self.classes.columns(head)
        findings = [c for c in range(columns.start, columns.stop) if self.classes.positive[c]]
        return output.instance_scores[:, :, findings].amax(dim=-1).clamp(0, 1)


def as_batch(bags: BagBatch | Tensor) -> BagBatch:
    """A bare (B, M, D) tensor as a batch."""
    return bags if isinstance(bags, BagBatch) else BagBatch(bags)


def cross_entropy(model: MILModel, logits: Tensor, label: int, over: Over | None = None) -> tuple[Tensor, Tensor, int]:
    """Cross-entropy of one bag's label over the columns of its task or of all tasks seen.

    Args:
        model: provides the classes and the default ``over``.
        logits: (C,) each head's own logits.
        label: the column of the bag's label.
        over: see :meth:`MILModel.loss`.

    Returns:
        the loss, the logits it ran over, and the column of the first of them.
    """
    own = model.classes.columns(model.classes.head_of(label))
    columns = own if (over or model.options.loss_over) == "task" else slice(0, len(model.classes))
    chosen = logits[columns]
    target = torch.tensor(label - columns.start, device=logits.device)
    return F.cross_entropy(chosen, target), chosen, columns.start


def settings_of(model: MILModel) -> dict[str, Any]:
    """What rebuilds an untrained model of the same shape: dimension, options and heads, as plain JSON values."""
    return {
        "dimension": model.dimension,
        "options": model.options.model_dump(mode="json"),
        "heads": [head.to_dict() for head in model.classes.heads],
    }
