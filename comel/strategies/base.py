"""The contract of every continual learning strategy.

The trainer is one loop that calls these hooks and knows no strategy by name:

    for stage in strategy.stream(tasks):
        strategy.before_task(model, stage, bags)
        optimizer over strategy.parameters(model, stage)
        for each bag:  strategy.loss -> backward -> strategy.after_backward -> step -> strategy.after_step
        model.end_task(bags); strategy.after_task(model, stage, bags)

A strategy sees bags only of the stage it is in. What it carries on to later ones is in the model and in what
:meth:`Strategy.save` writes, so that a finished run can learn another task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from comel.cohort.tasks import TaskData
from comel.models.base import BagBatch, BagOutput, MILModel

__all__ = ["NoOptions", "Stage", "StageBags", "Strategy", "train_heads"]


class NoOptions(BaseModel):
    """The settings of a strategy without settings."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Stage:
    """One step of a stream: the tasks that are learned together, and the heads they belong to.

    Attributes:
        index: 0 for the first stage a model ever sees; counting continues in ``add-task``.
        tasks: the tasks.
        heads: numbers of their heads in the model.
    """

    index: int
    tasks: tuple[TaskData, ...]
    heads: tuple[int, ...]


class StageBags(Protocol):
    """The training bags of a stage, in a fixed order; can be iterated repeatedly."""

    def __iter__(self) -> Iterator[tuple[BagBatch, int]]:
        """Bag (B = 1, on the model's device) and the column of its label."""


class Strategy:
    """A strategy that trains everything on each task; the base of all others.

    Attributes:
        Options: its pydantic settings.
        continual: whether it can learn a task without the data of earlier ones.
    """

    Options: ClassVar[type[BaseModel]] = NoOptions
    continual: ClassVar[bool] = True

    def __init__(self, options: Any = None) -> None:
        self.options = options if options is not None else self.Options()

    def stream(self, tasks: Sequence[TaskData]) -> Iterable[tuple[TaskData, ...]]:
        """The tasks in the groups in which they are learned; one by one by default."""
        return [(task,) for task in tasks]

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Called once the stage's heads exist, before its optimizer is built."""

    def parameters(self, model: MILModel, stage: Stage) -> list[dict[str, Any]]:
        """Optimizer groups (``params``, optional ``lr_scale``) of what this stage trains; everything else is frozen.

        Called on a model whose parameters are all frozen: this method turns ``requires_grad`` on.
        """
        return [{"params": unfreeze(model.trunk.parameters())}, train_heads(model, stage.heads)]

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """Loss terms by name, to be summed; ``output`` is the model's output for ``bags``."""
        return model.loss(output, labels)

    def after_backward(self, model: MILModel) -> None:
        """May change gradients."""

    def after_step(self, model: MILModel) -> None:
        """May change parameters."""

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Called when the stage is learned; the last access to its bags."""

    def old_data_bytes(self) -> int:
        """Bytes of earlier tasks' bags that are kept; 0 without rehearsal."""
        return 0

    def report(self) -> dict[str, Any]:
        """Facts to report after a stage, as plain JSON values."""
        return {}

    def merged_trunk(self, model: MILModel) -> dict[str, Tensor]:
        """The trunk's weights with every adapter added in: what inference needs."""
        return model.trunk.state_dict()

    def save(self, model: MILModel, folder: Path) -> None:
        """Write what later training needs, beside the merged weights."""

    def load(self, model: MILModel, folder: Path) -> None:
        """The inverse of :meth:`save`, on a model that holds the merged weights."""


def unfreeze(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Turn ``requires_grad`` on and return the parameters as a list."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def train_heads(model: MILModel, heads: Iterable[int]) -> dict[str, Any]:
    """The optimizer group of these heads, usually the stage's own: older heads then stay frozen."""
    parameters = unfreeze(parameter for head in dict.fromkeys(heads) for parameter in model.head_parameters(head))
    return {"params": parameters, "lr_scale": model.head_lr_scale}
