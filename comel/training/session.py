"""One call of ``train`` or ``add_task``: stage after stage, each ending in scores and a version."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from comel.bags.contract import FeatureContract
from comel.base.cores import torch_threads
from comel.base.devices import resolve_device
from comel.base.files import sha256_of_file, sha256_of_json
from comel.base.progress import progress_bar, say
from comel.base.trust import Trust
from comel.cohort.bags import BagStore
from comel.cohort.checks import check_bags, doubtful_labels, with_features, with_instances
from comel.cohort.classes import ClassSpace, Head
from comel.cohort.tasks import TaskData
from comel.errors import ConfigError
from comel.models import model_class
from comel.models.base import MILModel, settings_of
from comel.runs import checkpoint
from comel.runs.config import CODE_SHA256, RunConfig, TrainerConfig, without_name
from comel.runs.directory import RunDirectory
from comel.runs.events import read_events
from comel.runs.version import TaskInfo, VersionInfo, stored_contract
from comel.runs.weights import load_model
from comel.scoring.continual import StageScorer
from comel.scoring.evaluate import choose_on_validation
from comel.scoring.novelty import choose_distance_threshold, distances
from comel.strategies import strategy_class
from comel.strategies.base import Stage, Strategy
from comel.training.early_stopping import EarlyStopping
from comel.training.loop import EpochReport, StageCases, begin_stage, make_optimizer, train_stage

__all__ = ["Session", "plan_of"]

_NOT_PART_OF_THE_PLAN = {"trainer": {"device", "threads", "checkpoint_seconds"}, "data": {"cache_gib"}}


def plan_of(config: RunConfig) -> str:
    """A hash of everything that decides the weights: the settings, and what the manifest holds.

    The content of a user's own code is not in it: it is compared by itself, with words of its own.
    """
    values = config.model_dump(mode="json", exclude=_NOT_PART_OF_THE_PLAN)
    for section in ("model", "strategy"):
        values[section].pop(CODE_SHA256, None)
    for key in ("manifest", "bags", "root"):
        if values["data"][key] is not None:
            values["data"][key] = str(Path(values["data"][key]).resolve())
    manifest = config.data.manifest
    content = sha256_of_file(manifest) if manifest is not None and manifest.is_file() else None
    return sha256_of_json([values, content])


@dataclass
class Session:
    """Settings, data and where results go."""

    run: RunDirectory
    config: RunConfig
    tasks: list[TaskData]
    quiet: bool
    base: VersionInfo | None = None
    trust: Trust = field(default_factory=Trust)
    expected: FeatureContract | None = None

    def __post_init__(self) -> None:
        trainer: TrainerConfig = self.config.trainer
        self.device = resolve_device(trainer.device)
        data = self.config.data
        assert data.bags is not None
        self.tasks, left_out = with_features(self.tasks, data.bags, skip_missing=data.skip_missing)
        self.tasks, empty = with_instances(self.tasks, data.bags)
        self.notes = [*doubtful_labels(self.tasks, data.negative), *left_out, *empty]
        for task in self.tasks if trainer.early_stopping is not None else ():
            if not task.val:
                raise ConfigError(
                    f"trainer.early_stopping: task '{task.name}' has no validation case",
                    "mark some with split 'val', raise data.val_fraction, or leave early stopping out",
                )
        self.plan = sha256_of_json([plan_of(self.config), self.base.version if self.base else 0])
        self.store = BagStore(
            data.bags, self._learned_from(), assume_encoder=data.assume_encoder, cache_bytes=data.cache_gib * 2**30
        )
        cases = {case.name for task in self.tasks for case in task.cases(None)}
        with progress_bar(len(cases), "reading the bags", quiet=self.quiet) as advance:
            check_bags(self.tasks, self.store, advance)
        assert self.store.contract is not None
        self.contract: FeatureContract = self.store.contract
        self.scorer = StageScorer(self.run, self.config, self.tasks, self.store, self.device, self._untrained)

    def _learned_from(self) -> FeatureContract | None:
        """What bags must be like: those that the run has learned from, be it in another session; None where it has not."""
        done = self._newest()
        if done is not None:
            return done.feature_contract
        started = checkpoint.read_progress(self.run.checkpoint, self.plan) is not None
        return (checkpoint.read_contract(self.run.checkpoint) if started else None) or self.expected

    def new_model(self) -> MILModel:
        """A model without a head, its weights drawn from the seed."""
        torch.manual_seed(self.config.trainer.seed)
        section = self.config.model
        kind = model_class(section["name"], self.trust, sha256=section.get(CODE_SHA256))
        return kind(self.contract.dimension, kind.Options.model_validate(without_name(section)))

    def new_strategy(self) -> Strategy:
        """The strategy, in its first state."""
        section = self.config.strategy
        kind = strategy_class(section["name"], self.trust, sha256=section.get(CODE_SHA256))
        return kind(kind.Options.model_validate(without_name(section)))

    def _describe(self, model: MILModel) -> dict[str, Any]:
        """What ``model.json`` has of a model."""
        return {**self._named(), **settings_of(model)}

    def _named(self) -> dict[str, Any]:
        """The model's name, and the hash of its code where it is a user's own."""
        return {key: value for key, value in self.config.model.items() if key in ("name", CODE_SHA256)}

    def learn(self) -> None:
        """All stages that are not done: from the newest version of this plan, or from a checkpoint inside a stage."""
        with torch_threads(self.config.trainer.threads):
            self._learn()

    def _learn(self) -> None:
        run, folder = self.run, self.run.checkpoint
        done = self._newest()
        strategy = self.new_strategy()
        if done is None:
            model = self.new_model()
        else:
            run.verify(done.version)
            described = {**done.model, CODE_SHA256: None, **self._named()}
            model = load_model(run.version_folder(done.version), described, strategy, trust=self.trust)
            run.use(done.version)
        learned = list(done.tasks) if done else []
        first_stage, version = (self.base.stages, self.base.version) if self.base else (0, 0)
        groups = list(strategy.stream(self.tasks))
        progress = checkpoint.read_progress(folder, self.plan)
        epochs = self.config.trainer.epochs
        run.event(
            "start",
            stages=len(groups),
            done=done.stages if done else 0,
            checkpoint=progress,
            device=str(self.device),
            plan=plan_of(self.config),
            notes=self.notes,
        )
        for note in self.notes:
            say(f"training: {note}", quiet=self.quiet)
        with progress_bar(len(groups) * epochs, "training", quiet=self.quiet) as advance:
            for index, group in enumerate(groups, start=first_stage):
                version += 1
                if done is not None and index < done.stages:
                    advance(epochs)
                    continue
                heads = tuple(self._add_head(model, task.head, index) for task in group)
                stage = Stage(index, group, heads)
                learned += [
                    TaskInfo(name=task.name, head=head, stage=index, training_cases=len(task.train), slides=task.slides())
                    for task, head in zip(group, heads, strict=True)
                ]
                self.store.keep_only(case for task in group for case in task.cases(None))
                bags = StageCases(self.store, stage, model, self.device)
                first_epoch = progress[1] if progress is not None and progress[0] == index else 0
                if first_epoch:
                    strategy = self.new_strategy()
                    model = load_model(folder, self._describe(model), strategy, trust=self.trust)
                    advance(first_epoch)
                model.to(self.device)
                if not first_epoch:
                    begin_stage(model, strategy, stage, bags, self.config.trainer)
                optimizer = make_optimizer(model, strategy, stage, self.config.trainer)
                if first_epoch:
                    checkpoint.restore_optimizer(folder, optimizer)
                seconds = self._train(model, strategy, stage, bags, optimizer, first_epoch, advance)
                account = {
                    "version": version,
                    "learned": [task.name for task in stage.tasks],
                    "seconds": round(seconds, 3),
                    "trained_parameters": sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
                    "old_data_bytes": strategy.old_data_bytes(),
                }
                last = index == first_stage + len(groups) - 1
                self._conclude(model, strategy, stage, learned, bags, account, last=last)
        checkpoint.discard(folder)
        self._discard_early_stopping()
        self.scorer.finish()
        run.event("finished")

    def _newest(self) -> VersionInfo | None:
        """The newest version that this plan has published, or the one it starts from."""
        versions = [v for v in self.run.versions() if self.base is None or v > self.base.version]
        return self.run.info(versions[-1]) if versions else self.base

    def _add_head(self, model: MILModel, head: Head, stage: int) -> int:
        """The number of a head, added to the model if it is new. Its start is drawn from the seed and the stage."""
        for number, known in enumerate(model.classes.heads):
            if known == head:
                return number
            if known.name == head.name:
                raise ConfigError(f"'{head.name}' has the labels {', '.join(known.labels)} in the model", "keep them")
        ClassSpace.of([*model.classes.heads, head])
        torch.manual_seed(self.config.trainer.seed + 7919 * (stage + 1) + len(model.classes.heads))
        model.add_head(head)
        return len(model.classes.heads) - 1

    def _untrained(self) -> MILModel:
        """The model as the first stage finds it, with the one head of a domain-incremental run."""
        model = self.new_model()
        self._add_head(model, self.tasks[0].head, 0)
        return model.to(self.device)

    def _train(
        self,
        model: MILModel,
        strategy: Strategy,
        stage: Stage,
        bags: StageCases,
        optimizer: torch.optim.Optimizer,
        first_epoch: int,
        advance: Any,
    ) -> float:
        """Train a stage, with a checkpoint now and then; returns the seconds of all its epochs, earlier sittings' too."""
        config = self.config.trainer
        name = " + ".join(task.name for task in stage.tasks)
        saved, done = time.monotonic(), first_epoch
        seconds = self._seconds_before(stage.index, first_epoch)
        stopping = None
        if config.early_stopping is not None:
            stopping = EarlyStopping(config.early_stopping, bags.validation)
            if first_epoch:
                stopping.load(self._early_stopping(stage.index, first_epoch))

        def after_epoch(report: EpochReport) -> None:
            nonlocal saved, done, seconds
            done, seconds = report.epoch + 1, seconds + report.seconds
            losses = {key: round(value, 6) for key, value in report.losses.items()}
            self.run.event(
                "epoch", stage=stage.index, epoch=report.epoch, losses=losses, seconds=report.seconds, **report.model
            )
            advance(1, text=f"{name}  " + "  ".join(f"{key} {value:.3f}" for key, value in losses.items()))
            if time.monotonic() - saved >= config.checkpoint_seconds and done < config.epochs:
                path = self._early_stopping(stage.index, done)
                if stopping is not None:
                    # Before the checkpoint that needs it: one killed in between leaves a file too many, never one too few.
                    stopping.save(path)
                checkpoint.write(self.run.checkpoint, self.plan, stage.index, done, model, strategy, optimizer, self.contract)
                self._discard_early_stopping(but=path)
                saved = time.monotonic()

        train_stage(
            model, strategy, stage, bags, optimizer, config, first_epoch=first_epoch, after_epoch=after_epoch, stopping=stopping
        )
        if done < config.epochs:
            advance(config.epochs - done)
        return seconds

    def _early_stopping(self, stage: int, epoch: int) -> Path:
        """Where the state of early stopping lies that belongs to the checkpoint after ``epoch`` epochs of a stage."""
        return self.run.path / f"early-stopping-{stage:03d}-{epoch:05d}.safetensors"

    def _discard_early_stopping(self, but: Path | None = None) -> None:
        for path in self.run.path.glob("early-stopping-*.safetensors"):
            if path != but:
                path.unlink()

    def _seconds_before(self, stage: int, epoch: int) -> float:
        """The seconds of a stage's epochs before ``epoch``, each as it last was."""
        if not epoch:
            return 0.0
        epochs = [event for event in read_events(self.run) if event["event"] == "epoch" and event["stage"] == stage]
        spent = {event["epoch"]: event["seconds"] for event in epochs}
        return float(sum(value for number, value in spent.items() if number < epoch))

    def _conclude(
        self,
        model: MILModel,
        strategy: Strategy,
        stage: Stage,
        learned: list[TaskInfo],
        bags: StageCases,
        account: dict[str, Any],
        *,
        last: bool,
    ) -> None:
        """Temperatures and thresholds on validation, scores on test, a new version."""
        new = [info for info in learned if info.stage == stage.index]
        before = {info.head for info in learned if info.stage < stage.index}
        choose_on_validation(model, new, before, lambda info: self.scorer.run_model(model, info, "val"))
        farthest = choose_distance_threshold(distances(model, (bag for bag, _ in bags.validation())))
        temperatures = {info.head: info.temperature for info in new}
        for info in learned:
            info.temperature = temperatures.get(info.head, info.temperature)
        for info in new:
            info.distance_threshold = farthest
        report = strategy.report()
        version = account["version"]
        published = VersionInfo(
            version=version,
            run=sha256_of_json(self.run.config.read_text(encoding="utf-8"))[:12],
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            comel_version=metadata.version("comel"),
            mode=self.config.data.mode,
            model=self._describe(model),
            strategy=self.config.strategy,
            tasks=learned,
            stages=stage.index + 1,
            contract=stored_contract(self.contract),
            report=report,
        )
        self.scorer.record(model, learned, account, last=last)
        self.run.publish(published, model, strategy)
        self.run.event("version", version=version, tasks=account["learned"], report=report)
