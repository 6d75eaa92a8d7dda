"""``train`` and ``add_task``: a stream of tasks into a run directory, resumable, one version a stage."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from comel import checkpoint
from comel.bag import FeatureContract
from comel.classes import ClassSpace, Head
from comel.config import RunConfig, TrainerConfig, load_config, parse_section
from comel.data import BagStore, TaskData, load_tasks
from comel.errors import ConfigError, RunError
from comel.evaluation import (
    append_row,
    choose_instance_threshold,
    continual,
    evaluate_cases,
    new_matrices,
    score_task,
    write_results,
)
from comel.files import read_json, sha256_of_json, write_json, write_text
from comel.foreign import bag_path
from comel.manifest import read_manifest
from comel.models import model_class
from comel.models.base import MILModel, settings_of
from comel.progress import progress_bar
from comel.run import RunDirectory, TaskInfo, VersionInfo, build_model, load_state
from comel.strategies import strategy_class
from comel.strategies.base import Stage, Strategy
from comel.trainer import EpochReport, StageCases, begin_stage, make_optimizer, resolve_device, train_stage

__all__ = ["add_task", "train"]

_PENDING = "add-task.json"
_NOT_PART_OF_THE_PLAN = {"trainer": {"device", "threads", "checkpoint_seconds"}, "data": {"cache_gib"}}


def train(config: RunConfig | Mapping[str, Any], out: Path, *, resume: bool = False, quiet: bool = False) -> RunDirectory:
    """Train a model over a stream of tasks.

    Args:
        config: settings, see :mod:`comel.config`.
        out: the run directory. The same settings again go on with an unfinished run.
        resume: take the settings from the run itself.
        quiet: no progress.

    Returns:
        The finished run.

    Raises:
        ComelError: settings, manifest, bags or the run directory cannot be used.
    """
    run = RunDirectory(out)
    if resume and run.config.exists():
        config = load_config(run.config)
    config = resolved(config if isinstance(config, RunConfig) else parse_section(RunConfig, config, "settings"))
    with run.locked():
        _check_free(run, config)
        session = _Session(run, config, load_tasks(config.data), quiet)
        _claim(run, config)
        session.learn()
    return run


def add_task(
    run: Path,
    manifest: Path,
    bags: Path,
    *,
    tasks: Sequence[str] | None = None,
    overrides: Iterable[str] = (),
    quiet: bool = False,
) -> RunDirectory:
    """Teach a finished run new tasks from their bags alone; each gives a new version, and the old ones stay usable.

    Args:
        run: a finished run directory.
        manifest: the new tasks' cohort.
        bags: the new tasks' feature files, made as the run's feature contract says.
        tasks: which tasks of the manifest, in order; default all.
        overrides: ``trainer.epochs=20`` and the like for this training.
        quiet: no progress.

    Raises:
        ComelError: the run is not finished, knows the task already, has no room left, or the bags do not fit.
    """
    directory = RunDirectory(run)
    directory.version_folder()
    with directory.locked():
        if not _is_finished(directory) and not (directory.path / _PENDING).exists():
            raise RunError(f"{run}: the run is not finished", "finish the training first: comel train --resume")
        config = _settings_for_new_tasks(directory, manifest, bags, tasks, overrides)
        info = directory.info(_base_version(directory, _plan(config)))
        directory.verify(info.version)
        if not strategy_class(config.strategy["name"]).continual:
            raise ConfigError(f"strategy '{config.strategy['name']}' needs all tasks at once", "train a new run over all tasks")
        loaded = load_tasks(config.data)
        again = [task.name for task in loaded if task.name in {known.name for known in info.tasks}]
        if again:
            raise ConfigError(f"{run}: has learned the task '{again[0]}' already", "name another task, or train a new run")
        session = _Session(directory, config, loaded, quiet, info)
        write_json(directory.path / _PENDING, {"plan": _plan(config), "base_version": info.version})
        session.learn()
        (directory.path / _PENDING).unlink()
    return directory


def _settings_for_new_tasks(
    run: RunDirectory, manifest: Path, bags: Path, tasks: Sequence[str] | None, overrides: Iterable[str]
) -> RunConfig:
    """The run's own settings over the new tasks' data; what named the old data does not carry over."""
    before, stored = resolved(load_config(run.config)), resolved(load_config(run.config, overrides))
    if (before.model, before.strategy, before.data.mode) != (stored.model, stored.strategy, stored.data.mode):
        raise ConfigError(
            "model, strategy and data.mode stay as the run was trained", "change settings of data and trainer only"
        )
    labels = None
    if stored.data.mode == "domain-incremental":
        shared = run.info().model["heads"][0]["labels"]
        labels = dict.fromkeys(tasks or read_manifest(Path(manifest)).tasks, shared)
    new = {"manifest": Path(manifest), "bags": Path(bags), "root": None, "tasks": list(tasks) if tasks else None}
    data = stored.data.model_copy(update={**new, "labels": labels, "fold": None})
    return stored.model_copy(update={"data": data})


def _base_version(run: RunDirectory, plan: str) -> int | None:
    """The version that an interrupted ``add-task`` of the same plan started from, or None for the current one."""
    path = run.path / _PENDING
    pending = read_json(path) if path.exists() else {}
    return pending.get("base_version") if pending.get("plan") == plan else None


def resolved(config: RunConfig) -> RunConfig:
    """The settings with every option of model and strategy spelt out and checked."""

    def options(section: Mapping[str, Any], kind: Any, where: str) -> dict[str, Any]:
        contract = MILModel if where == "model" else Strategy
        if not (isinstance(kind, type) and issubclass(kind, contract)):
            raise ConfigError(
                f"{where}: '{section['name']}' is no {where}", f"derive it from {contract.__module__}.{contract.__name__}"
            )
        chosen: BaseModel = parse_section(kind.Options, _without_name(section), where)
        file, separator, kind_name = section["name"].rpartition(".py:")
        name = f"{Path(file).resolve()}.py:{kind_name}" if separator else section["name"]
        return {"name": name, **chosen.model_dump(mode="json")}

    for where in ("model", "strategy"):
        if not isinstance(getattr(config, where).get("name"), str):
            raise ConfigError(f"{where}.name is not a name", f"write {where}.name")
    return config.model_copy(
        update={
            "model": options(config.model, model_class(config.model["name"]), "model"),
            "strategy": options(config.strategy, strategy_class(config.strategy["name"]), "strategy"),
        }
    )


def _is_finished(run: RunDirectory) -> bool:
    return run.metrics.exists() and bool(read_json(run.metrics).get("finished"))


def _check_free(run: RunDirectory, config: RunConfig) -> None:
    """The run directory is empty, or holds an unfinished run of the same settings or one that has learned nothing yet."""
    if run.config.exists():
        if _is_finished(run):
            raise RunError(f"{run.path}: holds a finished run", "choose another --out, or teach it more: comel add-task")
        if (run.path / _PENDING).exists():
            raise RunError(f"{run.path}: an add-task is not finished", "give the same comel add-task command again")
        learned = run.versions() or run.checkpoint.exists()
        if learned and _plan(load_config(run.config)) != _plan(config):
            raise RunError(f"{run.path}: holds an unfinished run with other settings", "say --resume, or choose another --out")
    elif any(path.name != ".lock" for path in run.path.iterdir()):
        raise RunError(f"{run.path}: is not empty and holds no run", "choose another --out")


def _claim(run: RunDirectory, config: RunConfig) -> None:
    """Write the settings into the run directory, unless they are there already."""
    import yaml

    if run.config.exists() and _plan(load_config(run.config)) == _plan(config):
        return
    values = config.model_dump(mode="json")
    for key in ("manifest", "bags", "root"):
        if values["data"][key] is not None:
            values["data"][key] = str(Path(values["data"][key]).resolve())
    write_text(run.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _plan(config: RunConfig) -> str:
    """A hash of everything that decides the weights."""
    values = config.model_dump(mode="json", exclude=_NOT_PART_OF_THE_PLAN)
    for key in ("manifest", "bags", "root"):
        if values["data"][key] is not None:
            values["data"][key] = str(Path(values["data"][key]).resolve())
    return sha256_of_json(values)


@dataclass
class _Session:
    """One call of :func:`train` or :func:`add_task`: settings, data and where results go."""

    run: RunDirectory
    config: RunConfig
    tasks: list[TaskData]
    quiet: bool
    base: VersionInfo | None = None

    def __post_init__(self) -> None:
        trainer: TrainerConfig = self.config.trainer
        if trainer.threads:
            torch.set_num_threads(trainer.threads)
        self.device = resolve_device(trainer.device)
        data = self.config.data
        assert data.bags is not None
        for slide in (slide for task in self.tasks for case in task.cases(None) for slide in case.slides):
            bag_path(data.bags, slide)
        self.store = BagStore(
            data.bags,
            self.base.feature_contract if self.base else None,
            assume_encoder=data.assume_encoder,
            cache_bytes=data.cache_gib * 2**30,
        )
        if self.store.contract is None:
            self.store.read(self.tasks[0].train[0])
        assert self.store.contract is not None
        self.contract: FeatureContract = self.store.contract
        self.plan = sha256_of_json([_plan(self.config), self.base.version if self.base else 0])

    def new_model(self) -> MILModel:
        """A model without a head, its weights drawn from the seed."""
        torch.manual_seed(self.config.trainer.seed)
        kind = model_class(self.config.model["name"])
        options = kind.Options.model_validate(_without_name(self.config.model))
        return kind(self.contract.dimension, options)

    def new_strategy(self) -> Strategy:
        """The strategy, in its first state."""
        kind = strategy_class(self.config.strategy["name"])
        return kind(kind.Options.model_validate(_without_name(self.config.strategy)))

    def learn(self) -> None:
        """All stages that are not done: from the newest version of this plan, or from a checkpoint inside a stage."""
        run, folder = self.run, self.run.checkpoint
        done = self._newest()
        strategy = self.new_strategy()
        model = self.new_model() if done is None else build_model(done.model)
        if done is not None:
            load_state(run.version_folder(done.version), model, strategy)
            run.use(done.version)
        learned = list(done.tasks) if done else []
        first_stage, version = (self.base.stages, self.base.version) if self.base else (0, 0)
        groups = list(strategy.stream(self.tasks))
        progress = checkpoint.read_progress(folder, self.plan)
        epochs = self.config.trainer.epochs
        run.event("start", stages=len(groups), done=done.stages if done else 0, checkpoint=progress, device=str(self.device))
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
                bags = StageCases(self.store, stage, model, self.device)
                first_epoch = progress[1] if progress is not None and progress[0] == index else 0
                if first_epoch:
                    model = build_model({"name": self.config.model["name"], **settings_of(model)})
                    strategy = self.new_strategy()
                    checkpoint.restore(folder, model, strategy)
                    advance(first_epoch)
                model.to(self.device)
                if not first_epoch:
                    begin_stage(model, strategy, stage, bags, self.config.trainer)
                optimizer = make_optimizer(model, strategy, stage, self.config.trainer)
                if first_epoch:
                    checkpoint.restore_optimizer(folder, optimizer)
                self._train(model, strategy, stage, bags, optimizer, first_epoch, advance)
                self._conclude(model, strategy, stage, learned, version)
        checkpoint.discard(folder)
        self._finish()

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

    def _train(
        self,
        model: MILModel,
        strategy: Strategy,
        stage: Stage,
        bags: StageCases,
        optimizer: torch.optim.Optimizer,
        first_epoch: int,
        advance: Any,
    ) -> None:
        import time

        name = " + ".join(task.name for task in stage.tasks)
        saved = time.monotonic()

        def after_epoch(report: EpochReport) -> None:
            nonlocal saved
            losses = {key: round(value, 6) for key, value in report.losses.items()}
            self.run.event(
                "epoch", stage=stage.index, epoch=report.epoch, losses=losses, seconds=report.seconds, **report.model
            )
            advance(1, text=f"{name}  " + "  ".join(f"{key} {value:.3f}" for key, value in losses.items()))
            last = report.epoch + 1 == self.config.trainer.epochs
            if time.monotonic() - saved >= self.config.trainer.checkpoint_seconds and not last:
                checkpoint.write(self.run.checkpoint, self.plan, stage.index, report.epoch + 1, model, strategy, optimizer)
                saved = time.monotonic()

        train_stage(
            model, strategy, stage, bags, optimizer, self.config.trainer, first_epoch=first_epoch, after_epoch=after_epoch
        )

    def _conclude(self, model: MILModel, strategy: Strategy, stage: Stage, learned: list[TaskInfo], version: int) -> None:
        """Thresholds on validation, scores on test, a new version."""
        by_name = {task.name: task for task in self.tasks}
        for info in learned:
            if info.stage == stage.index:
                task = by_name[info.name]
                results = evaluate_cases(model, task, info.head, task.val, self.store, self.device)
                threshold, info.threshold_chosen_on = choose_instance_threshold(results)
                info.threshold = model.calibrate(info.head, threshold)
        report = strategy.report()
        published = VersionInfo(
            version=version,
            run=sha256_of_json(read_plain(self.run.config))[:12],
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            comel_version=metadata.version("comel"),
            mode=self.config.data.mode,
            model={"name": self.config.model["name"], **settings_of(model)},
            strategy=self.config.strategy,
            tasks=learned,
            stages=stage.index + 1,
            contract=asdict(self.contract),
            report=report,
        )
        self._score(model, learned, stage, version, by_name)
        self.run.publish(published, model, strategy)
        self.run.event("version", version=version, tasks=[task.name for task in stage.tasks], report=report)

    def _score(
        self, model: MILModel, learned: list[TaskInfo], stage: Stage, version: int, by_name: Mapping[str, TaskData]
    ) -> None:
        """Append this stage's row to the R matrices; tasks whose bags are no longer here stay None."""
        metrics: dict[str, Any] = {"stages": [], "matrices": new_matrices()}
        if self.run.metrics.exists():
            metrics = read_json(self.run.metrics)
        metrics["stages"] = [entry for entry in metrics["stages"] if entry["version"] < version]
        kept = len(metrics["stages"])
        for modes in metrics["matrices"].values():
            for names in modes.values():
                for rows in names.values():
                    del rows[kept:]
        scored, everything = {}, []
        for info in learned:
            if info.name not in by_name:
                continue
            task = by_name[info.name]
            results = evaluate_cases(model, task, info.head, task.test, self.store, self.device)
            everything += results
            scored[info.name] = score_task(results, info.threshold, self.config.data.mode)
        append_row(metrics["matrices"], [info.name for info in learned], scored)
        metrics["stages"].append({"version": version, "learned": [task.name for task in stage.tasks]})
        metrics |= {
            "mode": self.config.data.mode,
            "strategy": self.config.strategy["name"],
            "tasks": [info.name for info in learned],
            "thresholds": {info.name: info.threshold for info in learned},
            "continual": continual(metrics["matrices"]),
            "finished": False,
        }
        write_results(self.run.path / "evaluations" / f"{version:03d}.csv", everything, model.classes.names)
        write_json(self.run.metrics, metrics)

    def _finish(self) -> None:
        metrics = read_json(self.run.metrics)
        metrics["finished"] = True
        write_json(self.run.metrics, metrics)
        self.run.event("finished")


def read_plain(path: Path) -> str:
    """A file's text."""
    return path.read_text(encoding="utf-8")


def _without_name(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "name"}
