"""Elastic weight consolidation: the more the old tasks depend on a weight, the less it may move.

After each task the trunk's weights theta* and the diagonal F of its Fisher information are kept, and the next task adds

    strength * sum_i F_i (theta_i - theta*_i)^2.

Kirkpatrick et al. (2017, PNAS 114:13, eq. 3), in the online form of Schwarz et al. (2018, ICML, section 3.2): one F for all
old tasks, F <- decay F + F_task. The factor 1/2 of the papers is in the strength. No old data are kept.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from comel.models.base import BagBatch, BagOutput, MILModel, cross_entropy
from comel.strategies.base import Stage, StageBags, Strategy
from comel.strategies.persistence import read_tensors, write_tensors

__all__ = ["EWC", "EWCOptions", "fisher_diagonal"]

_FILE = "ewc.safetensors"


class EWCOptions(BaseModel):
    """Settings of the strategy."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    strength: float = Field(1.0, ge=0, description="weight of the penalty (lambda)")
    decay: float = Field(0.9, ge=0, le=1, description="factor on earlier tasks' Fisher information after each task")


class EWC(Strategy):
    """See the module. The heads are left out: old ones are frozen, and a new one has no past.

    A task that is fitted to a loss near zero has gradients near zero, and so a weak F: ``strength`` has no natural scale.

    State: ``fisher`` and ``anchor`` (theta*), tensors by the trunk's parameter names; both empty in the first task.
    """

    Options = EWCOptions
    options: EWCOptions

    def __init__(self, options: EWCOptions | None = None) -> None:
        super().__init__(options)
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms, and from the second task on ``ewc``."""
        terms = super().loss(model, bags, output, labels)
        return {**terms, "ewc": self.options.strength * self.distance(model)} if self.fisher else terms

    def distance(self, model: MILModel) -> Tensor:
        """sum F (theta - theta*)^2, a scalar; exactly 0 if the trunk has not moved."""
        weights = dict(model.trunk.named_parameters())
        device = next(iter(weights.values())).device
        for kept in (self.fisher, self.anchor):
            kept.update({name: tensor.to(device) for name, tensor in kept.items()})
        parts = [(self.fisher[name] * (weights[name] - self.anchor[name]) ** 2).sum() for name in weights]
        return torch.stack(parts).sum()

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Add the task to F, and store the trunk's current weights."""
        for name, new in fisher_diagonal(model, bags).items():
            old = self.fisher.get(name)
            self.fisher[name] = new if old is None else self.options.decay * old.to(new.device) + new
        self.anchor = {name: weight.detach().clone() for name, weight in model.trunk.named_parameters()}

    def save(self, model: MILModel, folder: Path) -> None:
        """``ewc.safetensors``, once a task is learned."""
        if self.fisher:
            tensors = {f"fisher.{name}": tensor for name, tensor in self.fisher.items()}
            write_tensors(folder / _FILE, tensors | {f"anchor.{name}": tensor for name, tensor in self.anchor.items()})

    def load(self, model: MILModel, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        tensors = read_tensors(folder / _FILE) if (folder / _FILE).exists() else {}
        for kind in ("fisher", "anchor"):
            found = {name.removeprefix(f"{kind}."): t for name, t in tensors.items() if name.startswith(f"{kind}.")}
            setattr(self, kind, found)


def fisher_diagonal(model: MILModel, bags: StageBags) -> dict[str, Tensor]:
    """The empirical Fisher information of the trunk's weights: the mean over bags of the squared gradient of a bag's own
    cross-entropy, without dropout.

    Returns:
        a tensor of each trunk parameter's shape, by its name.
    """
    weights = dict(model.trunk.named_parameters())
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    training, number = model.training, 0
    model.eval()
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        for bag, column in bags:
            with model.network():
                loss, _, _ = cross_entropy(model, model(bag).head_logits[0], column)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient**2
            number += 1
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        model.train(training)
    return {name: total / max(1, number) for name, total in sums.items()}
