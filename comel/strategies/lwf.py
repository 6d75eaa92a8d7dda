"""Learning without forgetting: on the new bags, keep the model's earlier answers for the old classes.

A frozen copy of the model from before the task gives each new bag its logits over the old columns, and the loss gains

    alpha * KL(softmax(teacher / T) || softmax(logits / T)),

both over the old columns only. Li and Hoiem (2016, ECCV, eq. 2 and 3) write it as a cross-entropy: the same gradient, but
KL is 0 if nothing has changed. As there, the term is not multiplied by T^2. No old data are kept.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from comel.base.files import write_json
from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.base import Stage, StageBags, Strategy
from comel.strategies.persistence import read_state, read_tensors, write_tensors

__all__ = ["LwF", "LwFOptions"]

_TEACHER = "teacher.safetensors"
_STATE = "strategy.json"


class LwFOptions(BaseModel):
    """Settings of the strategy."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    alpha: float = Field(1.0, ge=0, description="weight of the distillation")
    temperature: float = Field(2.0, gt=0, description="temperature T of both softmaxes")


class LwF(Strategy):
    """See the module. The trunk and the new head train; old heads are frozen, so their output changes only with the trunk.

    State: the number of columns learned before this task, and, while a task is being learned, the teacher.
    """

    Options = LwFOptions
    options: LwFOptions

    def __init__(self, options: LwFOptions | None = None) -> None:
        super().__init__(options)
        self.learned = 0
        self.teacher: MILModel | None = None

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """From the second task on: keep a copy of the model."""
        self.teacher = _frozen_copy(model) if self.learned else None

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms, and from the second task on ``distillation``."""
        terms = super().loss(model, bags, output, labels)
        if self.teacher is None:
            return terms
        self.teacher.to(bags.features.device)
        with torch.no_grad(), self.teacher.network():
            said = self.teacher(bags).head_logits
        return {**terms, "distillation": self.options.alpha * self._divergence(said, output.head_logits)}

    def _divergence(self, said: Tensor, says: Tensor) -> Tensor:
        """KL over the old columns of (B, C) logits, the mean over bags."""
        before, now = (
            F.log_softmax(logits[:, : self.learned].float() / self.options.temperature, dim=-1) for logits in (said, says)
        )
        return F.kl_div(now, before, log_target=True, reduction="batchmean")

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Drop the teacher: the next task's teacher is the present model."""
        self.learned, self.teacher = len(model.classes), None

    def save(self, model: MILModel, folder: Path) -> None:
        """``strategy.json`` and, inside a task, ``teacher.safetensors``."""
        write_json(folder / _STATE, {"learned_columns": self.learned})
        if self.teacher is not None:
            write_tensors(folder / _TEACHER, self.teacher.state_dict())

    def load(self, model: MILModel, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        self.learned, self.teacher = int(read_state(folder / _STATE)["learned_columns"]), None
        if (folder / _TEACHER).exists():
            self.teacher = _frozen_copy(model)
            self.teacher.load_state_dict(read_tensors(folder / _TEACHER))


def _frozen_copy(model: MILModel) -> MILModel:
    """A frozen copy of the model."""
    return copy.deepcopy(model).eval().requires_grad_(False)
