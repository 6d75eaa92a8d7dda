"""One stage of a session: started or resumed from a checkpoint, and trained with periodic checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comel.bags.contract import FeatureContract
from comel.base.trust import Trust
from comel.models.base import MILModel
from comel.runs import checkpoint
from comel.runs.config import RunConfig, TrainerConfig
from comel.runs.directory import RunDirectory
from comel.runs.events import read_events
from comel.runs.parts import new_strategy
from comel.runs.weights import load_model
from comel.strategies.base import Stage, Strategy
from comel.training.early_stopping import EarlyStopping
from comel.training.loop import EpochReport, StageCases, begin_stage, make_optimizer, train_stage

__all__ = ["StageTraining", "begin", "resume", "train"]


@dataclass(frozen=True)
class StageTraining:
    """A stage that is ready to train.

    Attributes:
        stage, bags: the stage and its training bags.
        model, strategy, optimizer: the objects that learn it.
        stopping: monitors the validation loss, if the settings enable it.
        first_epoch: epochs that are done already.
    """

    stage: Stage
    bags: StageCases
    model: MILModel
    strategy: Strategy
    optimizer: torch.optim.Optimizer
    stopping: EarlyStopping | None
    first_epoch: int = 0

    @property
    def trained_parameters(self) -> int:
        """The number of trained parameters."""
        return sum(parameter.numel() for group in self.optimizer.param_groups for parameter in group["params"])


def begin(stage: Stage, bags: StageCases, model: MILModel, strategy: Strategy, config: TrainerConfig) -> StageTraining:
    """Prepare a model that has the stage's heads for its first epoch."""
    model.to(bags.device)
    begin_stage(model, strategy, stage, bags, config)
    return _ready(stage, bags, model, strategy, config)


def resume(
    stage: Stage,
    bags: StageCases,
    described: Mapping[str, Any],
    config: RunConfig,
    folder: Path,
    epochs_done: int,
    *,
    trust: Trust,
) -> StageTraining:
    """A stage restored from a checkpoint, in a model as ``described`` (:func:`comel.runs.weights.build_model`).

    Raises:
        RunError: the checkpoint is damaged.
    """
    strategy = new_strategy(config, trust)
    model = load_model(folder, described, strategy, trust=trust)
    model.to(bags.device)
    ready = _ready(stage, bags, model, strategy, config.trainer, epochs_done)
    checkpoint.restore_optimizer(folder, ready.optimizer)
    if ready.stopping is not None:
        ready.stopping.load(checkpoint.early_stopping(folder, stage.index, epochs_done))
    return ready


def train(
    training: StageTraining,
    config: TrainerConfig,
    run: RunDirectory,
    plan: str,
    contract: FeatureContract,
    advance: Callable[..., None],
) -> float:
    """Train a stage; returns the seconds of all its epochs, those before an interruption too.

    Args:
        training: the stage.
        config: the session's trainer settings.
        run: the run that events and checkpoints go to.
        plan: the plan that the checkpoints belong to.
        contract: the bags' feature contract.
        advance: called after every epoch (:func:`comel.base.progress.progress_bar`), also for those that early stopping skips.
    """
    keeper = _Keeper(training, config, run, plan, contract, advance)
    train_stage(
        training.model,
        training.strategy,
        training.stage,
        training.bags,
        training.optimizer,
        config,
        first_epoch=training.first_epoch,
        after_epoch=keeper.after_epoch,
        stopping=training.stopping,
    )
    if keeper.done < config.epochs:
        advance(config.epochs - keeper.done)
    return keeper.seconds


class _Keeper:
    """Records every epoch's results and, once ``checkpoint_seconds`` have passed, a checkpoint."""

    def __init__(
        self,
        training: StageTraining,
        config: TrainerConfig,
        run: RunDirectory,
        plan: str,
        contract: FeatureContract,
        advance: Callable[..., None],
    ) -> None:
        self._training, self._config, self._run, self._plan, self._advance = training, config, run, plan, advance
        self._contract = contract
        self._name = " + ".join(task.name for task in training.stage.tasks)
        self._saved = time.monotonic()
        self.done = training.first_epoch
        self.seconds = _seconds_before(run, training.stage.index, training.first_epoch)

    def after_epoch(self, report: EpochReport) -> None:
        """The end of an epoch."""
        self.done, self.seconds = report.epoch + 1, self.seconds + report.seconds
        stage = self._training.stage.index
        losses = {key: round(value, 6) for key, value in report.losses.items()}
        self._run.event("epoch", stage=stage, epoch=report.epoch, losses=losses, seconds=report.seconds, **report.model)
        self._advance(1, text=f"{self._name}  " + "  ".join(f"{key} {value:.3f}" for key, value in losses.items()))
        if time.monotonic() - self._saved >= self._config.checkpoint_seconds and self.done < self._config.epochs:
            checkpoint.write(
                self._run.checkpoint,
                self._plan,
                stage,
                self.done,
                self._training.model,
                self._training.strategy,
                self._training.optimizer,
                self._contract,
                self._training.stopping,
            )
            self._saved = time.monotonic()


def _ready(
    stage: Stage, bags: StageCases, model: MILModel, strategy: Strategy, config: TrainerConfig, epochs_done: int = 0
) -> StageTraining:
    optimizer = make_optimizer(model, strategy, stage, config)
    stopping = None if config.early_stopping is None else EarlyStopping(config.early_stopping, bags.validation)
    return StageTraining(stage, bags, model, strategy, optimizer, stopping, epochs_done)


def _seconds_before(run: RunDirectory, stage: int, epoch: int) -> float:
    """The seconds of a stage's epochs before ``epoch``, each as last recorded."""
    if not epoch:
        return 0.0
    epochs = [event for event in read_events(run) if event["event"] == "epoch" and event["stage"] == stage]
    spent = {event["epoch"]: event["seconds"] for event in epochs}
    return float(sum(value for number, value in spent.items() if number < epoch))
