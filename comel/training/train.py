"""``train`` and ``add_task``: a stream of tasks into a run directory, resumable, one version a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from comel.bags.contract import FeatureContract
from comel.base.files import read_json, write_json, write_text
from comel.base.registry import is_user_code, split_user_code
from comel.base.settings import parse_section
from comel.base.trust import Trust
from comel.cohort.manifest import read_manifest
from comel.cohort.tasks import load_tasks
from comel.errors import ConfigError, RunError
from comel.models import model_class
from comel.models.base import MILModel
from comel.runs import checkpoint
from comel.runs.config import CODE_SHA256, RunConfig, load_config, without_name
from comel.runs.directory import RunDirectory
from comel.runs.events import read_events
from comel.strategies import strategy_class
from comel.strategies.base import Strategy
from comel.training.session import Session, plan_of

__all__ = ["add_task", "contract_of", "is_finished", "resolved", "stored_plan", "train"]

_PENDING = "add-task.json"
_OF_THE_NEW_TASKS = {
    "manifest": "give --manifest",
    "bags": "give --bags",
    "root": "give --root",
    "tasks": "give --task, once for each",
    "labels": "a new task's labels are those of its manifest, the negative one first",
    "fold": "give the new tasks' manifest a column 'split'",
}


def train(
    config: RunConfig | Mapping[str, Any],
    out: Path,
    *,
    resume: bool = False,
    trust: Iterable[str | Path] = (),
    contract: FeatureContract | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model over a stream of tasks.

    Args:
        config: settings, see :mod:`comel.runs.config`. A file of code that they name is run.
        out: the run directory. The same settings again go on with an unfinished run.
        resume: take the settings from the run itself.
        trust: files of code that these may name (:class:`comel.base.trust.Trust`).
        contract: what the features must be like; default as those that the run has learned from, or the first bag's.
        quiet: no progress.

    Returns:
        The run directory.

    Raises:
        ComelError: settings, manifest, bags or the run directory cannot be used.
    """
    run = RunDirectory(Path(out))
    if resume:
        if not run.config.exists():
            raise RunError(
                f"{run.path}: holds no run to go on with", run.runs_inside() or "train one: comel train without --resume"
            )
        run.check_files()
        config = load_config(run.config)
        trusted = Trust(trust)
    else:
        config = config if isinstance(config, RunConfig) else parse_section(RunConfig, config, "settings")
        trusted = Trust.of_settings(config.model, config.strategy, words=trust)
    config = resolved(config, trusted, from_run=resume)
    with run.locked():
        _check_free(run, config)
        session = Session(run, config, load_tasks(config.data), quiet, trust=trusted, expected=contract)
        session.notes += [*trusted.notes, *_changed_code(run, config)]
        _claim(run, config)
        session.learn()
    return run.path


def add_task(
    run: Path,
    manifest: Path,
    bags: Path,
    *,
    tasks: Sequence[str] | None = None,
    root: Path | None = None,
    overrides: Iterable[str] = (),
    trust: Iterable[str | Path] = (),
    quiet: bool = False,
) -> Path:
    """Teach a finished run new tasks from their bags alone; each gives a new version, and the old ones stay usable.

    Args:
        run: a finished run directory.
        manifest: the new tasks' cohort.
        bags: the new tasks' feature files, made as the run's feature contract says.
        tasks: which tasks of the manifest, in order; default all.
        root: folder that the manifest's relative paths start from; default its own.
        overrides: ``trainer.epochs=20`` and the like for this training.
        trust: files of code that the run may load (:class:`comel.base.trust.Trust`).
        quiet: no progress.

    Returns:
        The run directory.

    Raises:
        ComelError: the run is not finished, knows the task already, has no room left, or the bags do not fit.
    """
    directory = RunDirectory(Path(run))
    directory.version_folder()
    with directory.locked():
        if not is_finished(directory) and not (directory.path / _PENDING).exists():
            raise RunError(f"{run}: the run is not finished", "finish the training first: comel train --resume")
        trusted = Trust(trust)
        config = _settings_for_new_tasks(directory, manifest, bags, tasks, root, overrides, trusted)
        info = directory.info(_base_version(directory, plan_of(config)))
        directory.verify(info.version)
        if not _class_of(config.strategy, strategy_class, trusted).continual:
            raise ConfigError(f"strategy '{config.strategy['name']}' needs all tasks at once", "train a new run over all tasks")
        loaded = load_tasks(config.data)
        again = [task.name for task in loaded if task.name in {known.name for known in info.tasks}]
        if again:
            raise ConfigError(f"{run}: has learned the task '{again[0]}' already", "name another task, or train a new run")
        session = Session(directory, config, loaded, quiet, info, trust=trusted)
        session.notes += trusted.notes
        write_json(directory.path / _PENDING, {"plan": plan_of(config), "base_version": info.version})
        session.learn()
        (directory.path / _PENDING).unlink()
    return directory.path


def _settings_for_new_tasks(
    run: RunDirectory,
    manifest: Path,
    bags: Path,
    tasks: Sequence[str] | None,
    root: Path | None,
    overrides: Iterable[str],
    trust: Trust,
) -> RunConfig:
    """The run's own settings over the new tasks' data; what named the old data does not carry over."""
    overrides = list(overrides)
    before, stored = (resolved(load_config(run.config, words), trust, from_run=True) for words in ((), overrides))
    if (before.model, before.strategy, before.data.mode) != (stored.model, stored.strategy, stored.data.mode):
        raise ConfigError(
            "model, strategy and data.mode stay as the run was trained", "change settings of data and trainer only"
        )
    for name in sorted(_OF_THE_NEW_TASKS):
        if any(override.partition("=")[0].strip() in (f"data.{name}", "data") for override in overrides):
            raise ConfigError(f"data.{name} is not a setting of add-task", _OF_THE_NEW_TASKS[name])
    labels = None
    if stored.data.mode == "domain-incremental":
        shared = run.info().model["heads"][0]["labels"]
        labels = dict.fromkeys(tasks or read_manifest(Path(manifest), root=root).tasks, shared)
    new = {"manifest": Path(manifest), "bags": Path(bags), "root": root, "tasks": list(tasks) if tasks else None}
    data = stored.data.model_copy(update={**new, "labels": labels, "fold": None})
    return stored.model_copy(update={"data": data})


def _base_version(run: RunDirectory, plan: str) -> int | None:
    """The version that an interrupted ``add-task`` of the same plan started from, or None for the current one."""
    path = run.path / _PENDING
    pending = read_json(path) if path.exists() else {}
    return pending.get("base_version") if pending.get("plan") == plan else None


def resolved(config: RunConfig, trust: Trust | None = None, *, from_run: bool = False) -> RunConfig:
    """The settings with every option of model and strategy spelt out and checked, and the hash of a file of the user's own.

    Args:
        config: the settings.
        trust: the code of their own that users trust; default what the settings name, which then must be the user's.
        from_run: whether the settings were read from a run: names stay as they are, and hashes as they were.

    Raises:
        ConfigError: a name or an option does not exist, or a name is of code that is not trusted.
    """
    trust = trust or Trust.of_settings(config.model, config.strategy)

    def options(section: Mapping[str, Any], find: Any, contract: type[MILModel | Strategy]) -> dict[str, Any]:
        where = "model" if contract is MILModel else "strategy"
        name = section.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"{where}.name is not a name", f"write {where}.name")
        kind = _class_of(section, find, trust, note_unchecked=from_run)
        if not (isinstance(kind, type) and issubclass(kind, contract)):
            raise ConfigError(f"{where}: '{name}' is no {where}", f"derive it from {contract.__module__}.{contract.__name__}")
        chosen: BaseModel = parse_section(kind.Options, without_name(section), where)
        named: dict[str, Any] = {"name": name}
        if is_user_code(name) and not from_run:
            file, attribute = split_user_code(name)
            named = {"name": f"{file.resolve()}:{attribute}", CODE_SHA256: trust.sha256(name)}
        elif CODE_SHA256 in section:
            named[CODE_SHA256] = section[CODE_SHA256]
        return {**named, **chosen.model_dump(mode="json")}

    return config.model_copy(
        update={
            "model": options(config.model, model_class, MILModel),
            "strategy": options(config.strategy, strategy_class, Strategy),
        }
    )


def _class_of(section: Mapping[str, Any], find: Any, trust: Trust, *, note_unchecked: bool = False) -> Any:
    """The class that a section of the settings names, from a file only where that file is as it was."""
    return find(section["name"], trust, sha256=section.get(CODE_SHA256), note_unchecked=note_unchecked)


def is_finished(run: RunDirectory) -> bool:
    """Whether every stage of the run is done."""
    return run.metrics.exists() and bool(read_json(run.metrics).get("finished"))


def contract_of(run: RunDirectory) -> FeatureContract | None:
    """What the features were like that a run has learned from; None where it has learned nothing."""
    versions = run.versions()
    return run.info(versions[-1]).feature_contract if versions else checkpoint.read_contract(run.checkpoint)


def _check_free(run: RunDirectory, config: RunConfig) -> None:
    """The run directory is empty, or holds an unfinished run of the same settings or one that has learned nothing yet."""
    if run.config.exists():
        if is_finished(run):
            raise RunError(f"{run.path}: holds a finished run", "choose another --out, or teach it more: comel add-task")
        if (run.path / _PENDING).exists():
            raise RunError(f"{run.path}: an add-task is not finished", "give the same comel add-task command again")
        learned = run.versions() or run.checkpoint.exists()
        if learned and stored_plan(run) != plan_of(config):
            raise RunError(
                f"{run.path}: holds an unfinished run with other settings or another manifest",
                "say --resume, put the manifest back as it was, or choose another --out",
            )
    elif any(path.name != ".lock" for path in run.path.iterdir()):
        raise RunError(f"{run.path}: is not empty and holds no run", "choose another --out")


def _claim(run: RunDirectory, config: RunConfig) -> None:
    """Write the settings into the run directory, unless they are there already."""
    import yaml

    if run.config.exists():
        stored = load_config(run.config)
        if (plan_of(stored), _code_of(stored)) == (plan_of(config), _code_of(config)):
            return
    values = config.model_dump(mode="json")
    for key in ("manifest", "bags", "root"):
        if values["data"][key] is not None:
            values["data"][key] = str(Path(values["data"][key]).resolve())
    write_text(run.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _code_of(config: RunConfig) -> list[str | None]:
    """The hashes of the user's own code that a run is of."""
    return [section.get(CODE_SHA256) for section in (config.model, config.strategy)]


def _changed_code(run: RunDirectory, config: RunConfig) -> list[str]:
    """A note for each file of the user's own code whose content is not what the run keeps the hash of."""
    if not run.config.exists() or not (run.versions() or run.checkpoint.exists()):
        return []
    said = "has changed since the run began; what was learned before was learned with it as it was"
    files = [split_user_code(str(section["name"]))[0] for section in (config.model, config.strategy)]
    hashes = zip(files, _code_of(load_config(run.config)), _code_of(config), strict=True)
    return [f"{file}: {said}" for file, before, now in hashes if before is not None and before != now]


def stored_plan(run: RunDirectory) -> str:
    """The hash of the settings and the manifest (:func:`comel.training.session.plan_of`) that the run was last trained with."""
    plans = [event["plan"] for event in read_events(run) if event["event"] == "start" and "plan" in event]
    return plans[-1] if plans else plan_of(load_config(run.config))
