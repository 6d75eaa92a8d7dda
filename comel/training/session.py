"""One call of ``train`` or ``add_task``: stage after stage, each ending in scores and a version."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from comel.bags.contract import FeatureContract
from comel.base.cores import torch_threads
from comel.base.devices import resolve_device
from comel.base.files import sha256_of_json
from comel.base.progress import progress_bar, say
from comel.base.trust import Trust
from comel.base.units import Mode
from comel.base.version import comel_version
from comel.cohort.bags import BagStore
from comel.cohort.checks import check_bags, doubtful_labels, with_features, with_instances
from comel.cohort.classes import ClassSpace, Head
from comel.cohort.seen import patient_key
from comel.cohort.tasks import TaskData
from comel.errors import ConfigError
from comel.models.base import MILModel, settings_of
from comel.prediction.judge import Judge
from comel.runs import checkpoint
from comel.runs.config import CODE_SHA256, RunConfig
from comel.runs.directory import RunDirectory
from comel.runs.parts import new_model, new_strategy
from comel.runs.version import TaskInfo, VersionInfo, stored_contract
from comel.runs.weights import load_model
from comel.scoring.evaluate import choose_on_validation
from comel.scoring.novelty import choose_distance_threshold, distances
from comel.scoring.stages import StageScorer
from comel.strategies.base import Stage, Strategy
from comel.training.loop import StageCases
from comel.training.stage import StageTraining, begin, resume, train

__all__ = ["Session"]


@dataclass(frozen=True)
class Session:
    """Settings, data and where results go; made by :meth:`prepare`.

    Attributes:
        run: the run that results go to.
        config: the resolved settings.
        plan: the hash of settings and manifest (:func:`comel.training.plan.plan_of`).
        base: the version that ``add_task`` starts from, or None.
        tasks: the tasks to be learned, in order, with the cases that have features.
        store: reads their bags.
        contract: the contract that all bags must meet.
        device: the model's device.
        scorer: writes scores.
        notes: remarks on the data for the user.
        quiet: print no progress.
        trust: the user's own code that may be loaded.
    """

    run: RunDirectory
    config: RunConfig
    plan: str
    base: VersionInfo | None
    tasks: list[TaskData]
    store: BagStore
    contract: FeatureContract
    device: torch.device
    scorer: StageScorer
    notes: list[str]
    quiet: bool
    trust: Trust

    @classmethod
    def prepare(
        cls,
        run: RunDirectory,
        config: RunConfig,
        tasks: list[TaskData],
        plan: str,
        *,
        base: VersionInfo | None = None,
        expected: FeatureContract | None = None,
        trust: Trust | None = None,
        notes: Sequence[str] = (),
        quiet: bool = False,
    ) -> Session:
        """Read every bag once, and leave out or refuse what cannot be trained on; writes nothing.

        Args:
            run: where results go.
            config: settings, resolved.
            tasks: to be learned.
            plan: the hash of settings and manifest.
            base: the version that ``add_task`` starts from, or None.
            expected: the contract for features if the run has learned from none yet; default the first bag's.
            trust: the user's own code that may be loaded; by default none.
            notes: further remarks for the user.
            quiet: print no progress.

        Raises:
            ComelError: features are missing or damaged, a task has no training case left, or no validation case although early
                stopping needs one; or there is no such device.
        """
        trust = trust or Trust()
        device, data = torch.device(resolve_device(config.trainer.device, "trainer.device")), config.data
        assert data.bags is not None
        tasks, left_out = with_features(tasks, data.bags, skip_missing=data.skip_missing)
        tasks, empty = with_instances(tasks, data.bags)
        for task in tasks if config.trainer.early_stopping is not None else ():
            if not task.val:
                raise ConfigError(
                    f"trainer.early_stopping: task '{task.name}' has no validation case",
                    "mark some with split 'val', raise data.val_fraction, or leave early stopping out",
                )
        cache_bytes = data.cache_gib * 2**30
        known = _learned_from(run, _checkpoint_plan(plan, base), base) or expected
        store = BagStore(data.bags, known, assume_encoder=data.assume_encoder, cache_bytes=cache_bytes)
        cases = {case.name for task in tasks for case in task.cases(None)}
        with progress_bar(len(cases), "reading the bags", quiet=quiet) as advance:
            check_bags(tasks, store, advance)
        assert store.contract is not None
        untrained = None
        if base is None and data.mode == Mode.DOMAIN:
            untrained = Judge(_untrained(config, tasks[0].head, store.contract, trust).to(device), store.contract, device)
        scorer = StageScorer(run, config, tasks, store, untrained)
        notes = [*doubtful_labels(tasks, data.negative), *left_out, *empty, *notes]
        return cls(run, config, plan, base, tasks, store, store.contract, device, scorer, notes, quiet, trust)

    def learn(self) -> None:
        """Learn all stages that are not done, from the newest version of this plan or from a checkpoint inside a stage."""
        with torch_threads(self.config.trainer.threads):
            self._learn()

    def _learn(self) -> None:
        done = self._newest()
        model, strategy = self._start(done)
        learned = list(done.tasks) if done else []
        groups = list(strategy.stream(self.tasks))
        first, epochs = self.base.stages if self.base else 0, self.config.trainer.epochs
        version = self.base.version if self.base else 0
        stopped_at = checkpoint.read_progress(self.run.checkpoint, self._checkpoint_plan)
        self._announce(len(groups), done, stopped_at)
        with progress_bar(len(groups) * epochs, "training", quiet=self.quiet) as advance:
            for index, tasks in enumerate(groups, start=first):
                version += 1
                if done is not None and index < done.stages:
                    advance(epochs)
                    continue
                stage = Stage(index, tasks, tuple(_add_head(model, self.config, task.head, index) for task in tasks))
                learned += _infos(stage)
                self.store.keep_only(case for task in tasks for case in task.cases(None))
                bags = StageCases(self.store, stage, model, self.device)
                if stopped_at is not None and stopped_at[0] == index:
                    described = {**_named(self.config), **settings_of(model)}
                    training = resume(stage, bags, described, self.config, self.run.checkpoint, stopped_at[1], trust=self.trust)
                    advance(stopped_at[1])
                else:
                    training = begin(stage, bags, model, strategy, self.config.trainer)
                model, strategy = training.model, training.strategy
                seconds = train(training, self.config.trainer, self.run, self._checkpoint_plan, self.contract, advance)
                self._conclude(training, learned)
                self._publish(training, learned, version, seconds, last=index == first + len(groups) - 1)
        checkpoint.discard(self.run.checkpoint)
        self.scorer.finish()
        self.run.event("finished")

    @property
    def _checkpoint_plan(self) -> str:
        """What a checkpoint must match to be resumed: the plan, and the version that the session starts from."""
        return _checkpoint_plan(self.plan, self.base)

    def _newest(self) -> VersionInfo | None:
        """The newest version that this plan has published, or the one it starts from."""
        return _newest(self.run, self.base)

    def _start(self, done: VersionInfo | None) -> tuple[MILModel, Strategy]:
        """Model and strategy as a version left them, or new ones."""
        strategy = new_strategy(self.config, self.trust)
        if done is None:
            return new_model(self.config, self.contract.dimension, self.trust), strategy
        self.run.verify(done.version)
        described = {**done.model, CODE_SHA256: None, **_named(self.config)}
        model = load_model(self.run.version_folder(done.version), described, strategy, trust=self.trust)
        self.run.use(done.version)
        return model, strategy

    def _announce(self, stages: int, done: VersionInfo | None, stopped_at: tuple[int, int] | None) -> None:
        self.run.event(
            "start",
            stages=stages,
            done=done.stages if done else 0,
            checkpoint=stopped_at,
            device=str(self.device),
            plan=self.plan,
            notes=self.notes,
        )
        for note in self.notes:
            say(f"training: {note}", quiet=self.quiet)

    def _conclude(self, training: StageTraining, learned: Sequence[TaskInfo]) -> None:
        """Choose temperatures and thresholds on validation cases, and write them into the tasks' entries."""
        new = [info for info in learned if info.stage == training.stage.index]
        before = {info.head for info in learned if info.stage < training.stage.index}
        choose_on_validation(self._judge(training.model), training.stage.tasks, new, before, self.store)
        farthest = choose_distance_threshold(distances(training.model, (bag for bag, _ in training.bags.validation())))
        temperatures = {info.head: info.temperature for info in new}
        for info in learned:
            info.temperature = temperatures.get(info.head, info.temperature)
        for info in new:
            info.distance_threshold = farthest

    def _publish(self, training: StageTraining, learned: list[TaskInfo], version: int, seconds: float, *, last: bool) -> None:
        """Score the test cases, and make the model a version."""
        strategy, stage = training.strategy, training.stage
        report = strategy.report()
        account = {
            "version": version,
            "learned": [task.name for task in stage.tasks],
            "seconds": round(seconds, 3),
            "trained_parameters": training.trained_parameters,
            "old_data_bytes": strategy.old_data_bytes(),
        }
        info = VersionInfo(
            version=version,
            run=sha256_of_json(self.run.config.read_text(encoding="utf-8"))[:12],
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            comel_version=comel_version(),
            mode=self.config.data.mode,
            model={**_named(self.config), **settings_of(training.model)},
            strategy=self.config.strategy,
            tasks=learned,
            stages=stage.index + 1,
            contract=stored_contract(self.contract),
            report=report,
        )
        self.scorer.record(self._judge(training.model), learned, account, last=last)
        self.run.publish(info, training.model, strategy)
        self.run.event("version", version=version, tasks=account["learned"], report=report)

    def _judge(self, model: MILModel) -> Judge:
        return Judge(model, self.contract, self.device)


def _infos(stage: Stage) -> list[TaskInfo]:
    """A version's entries for a stage's tasks, before anything is chosen on their validation cases."""
    return [
        TaskInfo(
            name=task.name,
            head=head,
            stage=stage.index,
            training_cases=len(task.train),
            slides=task.slides(),
            patients={split: sorted(map(patient_key, names)) for split, names in task.patients().items()},
        )
        for task, head in zip(stage.tasks, stage.heads, strict=True)
    ]


def _add_head(model: MILModel, config: RunConfig, head: Head, stage: int) -> int:
    """The number of a head, added to the model if it is new. Its initial weights are drawn from the seed and the stage."""
    for number, known in enumerate(model.classes.heads):
        if known == head:
            return number
        if known.name == head.name:
            raise ConfigError(f"'{head.name}' has the labels {', '.join(known.labels)} in the model", "keep them")
    ClassSpace.of([*model.classes.heads, head])
    torch.manual_seed(config.trainer.seed + 7919 * (stage + 1) + len(model.classes.heads))
    model.add_head(head)
    return len(model.classes.heads) - 1


def _untrained(config: RunConfig, head: Head, contract: FeatureContract, trust: Trust) -> MILModel:
    """The model as the first stage finds it, with the one head of a domain-incremental run."""
    model = new_model(config, contract.dimension, trust)
    _add_head(model, config, head, 0)
    return model


def _named(config: RunConfig) -> dict[str, Any]:
    """The model's name, and the hash of its code if it is a user's own."""
    return {key: value for key, value in config.model.items() if key in ("name", CODE_SHA256)}


def _newest(run: RunDirectory, base: VersionInfo | None) -> VersionInfo | None:
    """The newest version that this plan has published, or the one it starts from."""
    versions = [version for version in run.versions() if base is None or version > base.version]
    return run.info(versions[-1]) if versions else base


def _checkpoint_plan(plan: str, base: VersionInfo | None) -> str:
    return sha256_of_json([plan, base.version if base else 0])


def _learned_from(run: RunDirectory, plan: str, base: VersionInfo | None) -> FeatureContract | None:
    """The contract of the bags that the run has learned from, in any session; None if it has learned nothing."""
    done = _newest(run, base)
    if done is not None:
        return done.feature_contract
    started = checkpoint.read_progress(run.checkpoint, plan) is not None
    return checkpoint.read_contract(run.checkpoint) if started else None
