"""The training loop. It calls the strategy's hooks and the model's loss, and knows neither by name.

Everything random is drawn from (seed, stage, epoch), so an epoch does not depend on whether the run was interrupted before it:
a killed run that resumes from a checkpoint ends with the same weights as one never killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comel.cohort.bags import BagStore, usable
from comel.cohort.tasks import Case
from comel.models.base import BagBatch, MILModel
from comel.models.batch import make_batch
from comel.runs.config import TrainerConfig
from comel.strategies.base import Stage, Strategy
from comel.training.early_stopping import EarlyStopping

__all__ = ["EpochReport", "StageCases", "begin_stage", "make_optimizer", "train_stage"]


@dataclass(frozen=True)
class EpochReport:
    """An epoch's results: mean loss terms, the model's own report, seconds."""

    epoch: int
    losses: dict[str, float]
    seconds: float
    model: dict[str, float] = field(default_factory=dict)


class StageCases:
    """A stage's training cases with the columns of their labels; iterates over whole bags in a fixed order."""

    def __init__(self, store: BagStore, stage: Stage, model: MILModel, device: torch.device) -> None:
        self.store, self.device = store, device
        heads = list(zip(stage.tasks, stage.heads, strict=True))
        self.cases: list[tuple[Case, int]] = [
            (case, model.classes.column(head, case.label)) for task, head in heads for case in task.train
        ]
        self.validation_cases: list[tuple[Case, int]] = [
            (case, model.classes.column(head, case.label)) for task, head in heads for case in task.val
        ]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[tuple[BagBatch, int]]:
        for case, column in self.cases:
            yield make_batch(usable(self.store.read(case)), self.device), column

    def validation(self) -> Iterator[tuple[BagBatch, int]]:
        """The stage's validation bags that have instances, in a fixed order."""
        for case, column in self.validation_cases:
            if len(bag := self.store.read(case)):
                yield make_batch(bag, self.device), column

    def shuffled(self, seed: Sequence[int], max_instances: int | None) -> Iterator[tuple[BagBatch, int]]:
        """The bags in an order and with instances drawn from ``seed``."""
        generator = np.random.default_rng(list(seed))
        for index in generator.permutation(len(self.cases)):
            case, column = self.cases[index]
            bag = usable(self.store.read(case))
            keep = None
            if max_instances is not None and len(bag) > max_instances:
                keep = np.sort(generator.choice(len(bag), max_instances, replace=False))
            yield make_batch(bag, self.device, keep), column


def begin_stage(model: MILModel, strategy: Strategy, stage: Stage, bags: StageCases, config: TrainerConfig) -> None:
    """Let the strategy prepare the model for a stage, with its own seed."""
    torch.manual_seed(_seed(config.seed, stage.index, -1))
    strategy.before_task(model, stage, bags)


def make_optimizer(model: MILModel, strategy: Strategy, stage: Stage, config: TrainerConfig) -> torch.optim.Adam:
    """Freeze the model, let the strategy choose what this stage trains, and build Adam over that."""
    model.requires_grad_(False)
    groups = [group for group in strategy.parameters(model, stage) if group["params"]]
    for group in groups:
        group["lr_scale"] = group.get("lr_scale", 1.0)
    return torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def train_stage(
    model: MILModel,
    strategy: Strategy,
    stage: Stage,
    bags: StageCases,
    optimizer: torch.optim.Optimizer,
    config: TrainerConfig,
    *,
    first_epoch: int = 0,
    after_epoch: Callable[[EpochReport], None] = lambda report: None,
    stopping: EarlyStopping | None = None,
) -> None:
    """Train one stage, one bag per step, with a cosine from ``config.lr`` to zero; then let strategy and model conclude it.

    With ``stopping`` the stage may end before ``config.epochs``, and is concluded with its best weights.
    """
    device = bags.device
    precision = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    for epoch in range(first_epoch, config.epochs):
        if stopping is not None and stopping.is_over:
            break
        started = time.monotonic()
        torch.manual_seed(_seed(config.seed, stage.index, epoch))
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["lr_scale"] * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        sums: dict[str, Tensor] = {}
        for batch, column in bags.shuffled((config.seed, stage.index, epoch), config.max_instances):
            with precision:
                output = model(batch)
                terms = strategy.loss(model, batch, output, torch.tensor([column], device=device))
            optimizer.zero_grad()
            total(terms).backward()
            strategy.after_backward(model)
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(
                    [p for group in optimizer.param_groups for p in group["params"]], config.clip_norm
                )
            optimizer.step()
            strategy.after_step(model)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double().reshape(())
        losses = dict(zip(sums, (torch.stack([*sums.values()]) / len(bags)).tolist(), strict=True))
        _check_finite(losses, stage, epoch)
        told = model.end_epoch()
        if stopping is not None:
            told = {**told, "validation_ce": stopping.observe(model, epoch)}
        after_epoch(EpochReport(epoch, losses, time.monotonic() - started, told))
    if stopping is not None:
        stopping.restore(model)
    model.eval()
    model.end_task(bags)
    strategy.after_task(model, stage, bags)


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of the loss terms."""
    return torch.stack([value.float() for value in terms.values()]).sum()


def _check_finite(losses: dict[str, Any], stage: Stage, epoch: int) -> None:
    from comel.errors import RunError

    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        where = f"stage {stage.index + 1}, epoch {epoch + 1}"
        raise RunError(f"{where}: the loss '{bad[0]}' is not finite", "lower trainer.lr or set trainer.clip_norm=1")


def _seed(*parts: int) -> int:
    """One 63-bit seed from several small numbers."""
    return int(np.random.SeedSequence([part + 1 for part in parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))
