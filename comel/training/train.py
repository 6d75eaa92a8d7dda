"""``train`` and ``add_task``: a stream of tasks into a run directory, resumable, one version per stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from comel.bags.contract import FeatureContract
from comel.base.files import read_json, write_json, write_text
from comel.base.registry import split_user_code
from comel.base.settings import gather, parse_section
from comel.base.text import first_line
from comel.base.trust import Trust
from comel.base.units import Mode
from comel.cohort.manifest import Manifest, read_manifest
from comel.cohort.seen import following
from comel.cohort.splits import splits_put_aside
from comel.cohort.tasks import load_tasks, named_in, read_cohort
from comel.errors import ConfigError, RunError
from comel.runs import checkpoint
from comel.runs.config import CODE_SHA256, RunConfig, load_config
from comel.runs.directory import RunDirectory
from comel.runs.parts import resolved, strategy_of
from comel.training.plan import plan_of, stored_plan
from comel.training.session import Session

__all__ = ["add_task", "continue_or_begin", "contract_of", "settings_for_new_tasks", "train"]

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
    manifest: Manifest | None = None,
    resume: bool = False,
    trust: Iterable[str | Path] = (),
    contract: FeatureContract | None = None,
    quiet: bool = False,
) -> Path:
    """Train a model over a stream of tasks.

    Args:
        config: settings, see :mod:`comel.runs.config`. A code file that they name is run.
        out: the run directory. The same settings continue an unfinished run.
        manifest: the cohort, if it has been read already; it replaces the file that ``data.manifest`` names.
        resume: take the settings from the run itself.
        trust: files of code that these may name (:class:`comel.base.trust.Trust`).
        contract: the contract that features must meet; default that of the run's earlier bags, or the first bag's.
        quiet: print no progress.

    Returns:
        The run directory.

    Raises:
        ComelError: settings, manifest, bags or the run directory cannot be used.
    """
    run = RunDirectory(Path(out))
    if resume:
        if not run.config.exists():
            raise RunError(
                f"{run.path}: holds no run to resume", run.runs_inside() or "train one: comel train without --resume"
            )
        run.check_files()
        config = load_config(run.config)
        trusted = Trust(trust)
    else:
        config = config if isinstance(config, RunConfig) else parse_section(RunConfig, config, "settings")
        trusted = Trust.of_settings(config.model, config.strategy, words=trust)
    config = resolved(config, trusted, from_run=resume)
    continue_or_begin(run, config, manifest, trust=trusted, contract=contract, quiet=quiet)
    return run.path


def continue_or_begin(
    run: RunDirectory,
    config: RunConfig,
    manifest: Manifest | None = None,
    *,
    trust: Trust | None = None,
    contract: FeatureContract | None = None,
    quiet: bool = False,
) -> None:
    """:func:`train` with resolved settings (:func:`comel.runs.parts.resolved`).

    Raises:
        ComelError: manifest, bags or the run directory cannot be used.
    """
    with run.locked():
        _check_free(run)
        if manifest is None:
            manifest = read_cohort(config.data)
        config = config.model_copy(update={"data": config.data.model_copy(update={"manifest": manifest.path})})
        plan = plan_of(config, manifest)
        _check_plan(run, plan, manifest)
        trust = trust or Trust.of_settings(config.model, config.strategy)
        notes = [*trust.notes, *_changed_code(run, config)]
        notes += splits_put_aside(manifest.of_tasks(config.data.tasks).rows) if config.data.fold is not None else []
        tasks = load_tasks(manifest, config.data)
        session = Session.prepare(run, config, tasks, plan, expected=contract, trust=trust, notes=notes, quiet=quiet)
        stored = load_config(run.config) if run.config.exists() else None
        if stored is None or (plan_of(stored, manifest), _code_of(stored)) != (plan, _code_of(config)):
            _write_settings(run, config)
        session.learn()


def add_task(
    run: Path,
    manifest: Path,
    bags: Path,
    *,
    tasks: Sequence[str] | None = None,
    root: Path | None = None,
    config: Path | None = None,
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    trust: Iterable[str | Path] = (),
    quiet: bool = False,
) -> Path:
    """Teach a finished run new tasks from their bags alone; each gives a new version, and the old ones stay usable.

    Args:
        run: a finished run directory.
        manifest: the new tasks' cohort.
        bags: the new tasks' feature files, made as the run's feature contract requires.
        tasks: which tasks of the manifest, in order; default all.
        root: folder that the manifest's relative paths start from; default its own.
        config: YAML file of settings for this training, overriding the run's.
        overrides: ``trainer.epochs=20`` and the like, overriding that file.
        settings: the same as values: ``{"trainer.epochs": 20}``, overriding all others.
        trust: files of code that the run may load (:class:`comel.base.trust.Trust`).
        quiet: print no progress.

    Returns:
        The run directory.

    Raises:
        ComelError: the run is not finished, knows the task already, has no room left, or the bags do not fit; or the manifest
            puts a slide or a patient that the run has seen into another split.
    """
    directory = RunDirectory(Path(run))
    directory.version_folder()
    with directory.locked():
        if not directory.is_finished and not (directory.path / _PENDING).exists():
            raise RunError(f"{run}: the run is not finished", "finish the training first: comel train --resume")
        stated = load_config(directory.config, list(overrides), over=config, options=settings).data
        names = named_in(stated) | set(tasks or ())
        cohort, trusted = read_manifest(manifest, root=root, names=names), Trust(trust)
        chosen = settings_for_new_tasks(
            directory, cohort, bags, tasks, root, config=config, overrides=list(overrides), settings=settings, trust=trusted
        )
        plan = plan_of(chosen, cohort)
        info = directory.info(_base_version(directory, plan))
        directory.verify(info.version)
        if not strategy_of(chosen, trusted).continual:
            raise ConfigError(f"strategy '{chosen.strategy['name']}' needs all tasks at once", "train a new run over all tasks")
        cohort, followed = following(cohort, info.seen, tasks)
        loaded = load_tasks(cohort, chosen.data)
        again = [task.name for task in loaded if task.name in {known.name for known in info.tasks}]
        if again:
            raise ConfigError(f"{run}: has learned the task '{again[0]}' already", "name another task, or train a new run")
        notes = [*trusted.notes, *followed]
        session = Session.prepare(directory, chosen, loaded, plan, base=info, trust=trusted, notes=notes, quiet=quiet)
        write_json(directory.path / _PENDING, {"plan": plan, "base_version": info.version})
        session.learn()
        (directory.path / _PENDING).unlink()
    return directory.path


def settings_for_new_tasks(
    run: RunDirectory,
    manifest: Manifest,
    bags: Path,
    tasks: Sequence[str] | None,
    root: Path | None,
    *,
    config: Path | None,
    overrides: Sequence[str],
    settings: Mapping[str, Any] | None,
    trust: Trust | None = None,
) -> RunConfig:
    """The run's own settings for the new tasks' data; settings that named the old data do not carry over."""
    trust = trust or Trust()
    before = resolved(load_config(run.config), trust, from_run=True)
    stored = resolved(load_config(run.config, overrides, over=config, options=settings), trust, from_run=True)
    if (before.model, before.strategy, before.data.mode) != (stored.model, stored.strategy, stored.data.mode):
        raise ConfigError("model, strategy and data.mode stay as in the run", "change only settings of data and trainer")
    given, _ = gather(RunConfig, "settings", files=[config] if config else [], overrides=overrides, options=settings)
    for name in sorted(_OF_THE_NEW_TASKS.keys() & given.get("data", {}).keys()):
        raise ConfigError(f"data.{name} is not a setting of add-task", _OF_THE_NEW_TASKS[name])
    labels = None
    if stored.data.mode == Mode.DOMAIN:
        shared = run.info().model["heads"][0]["labels"]
        labels = dict.fromkeys(tasks or manifest.tasks, shared)
    new = {"manifest": manifest.path, "bags": Path(bags), "root": root, "tasks": list(tasks) if tasks else None}
    data = stored.data.model_copy(update={**new, "labels": labels, "fold": None})
    return stored.model_copy(update={"data": data})


def _base_version(run: RunDirectory, plan: str) -> int | None:
    """The version that an interrupted ``add-task`` of the same plan started from, or None for the current one."""
    path = run.path / _PENDING
    try:
        pending = read_json(path) if path.exists() else {}
        base = pending.get("base_version") if pending.get("plan") == plan else None
    except (AttributeError, OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({first_line(error)})", "remove it: the add-task then restarts") from None
    return base if isinstance(base, int) else None


def contract_of(run: RunDirectory) -> FeatureContract | None:
    """The contract of the features that a run has learned from; None if it has learned nothing."""
    versions = run.versions()
    return run.info(versions[-1]).feature_contract if versions else checkpoint.read_contract(run.checkpoint)


def _check_free(run: RunDirectory) -> None:
    """Require that the run directory is empty, or holds an unfinished run."""
    if run.config.exists():
        if run.is_finished:
            raise RunError(f"{run.path}: holds a finished run", "choose another --out, or teach it more: comel add-task")
        if (run.path / _PENDING).exists():
            raise RunError(f"{run.path}: an add-task is not finished", "give the same comel add-task command again")
    elif any(path.name != ".lock" for path in run.path.iterdir()):
        raise RunError(f"{run.path}: is not empty and holds no run", "choose another --out")


def _check_plan(run: RunDirectory, plan: str, manifest: Manifest) -> None:
    """Require that the run has learned whatever it has learned under this plan."""
    if run.config.exists() and (run.versions() or run.checkpoint.exists()) and stored_plan(run, manifest) != plan:
        raise RunError(
            f"{run.path}: holds an unfinished run with other settings or another manifest",
            "give --resume, restore the manifest, or choose another --out",
        )


def _write_settings(run: RunDirectory, config: RunConfig) -> None:
    import yaml

    values = config.model_dump(mode="json")
    for key in ("manifest", "bags", "root"):
        if values["data"][key] is not None:
            values["data"][key] = str(Path(values["data"][key]).resolve())
    write_text(run.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _code_of(config: RunConfig) -> list[str | None]:
    """The hashes of the user's own code in a run."""
    return [section.get(CODE_SHA256) for section in (config.model, config.strategy)]


def _changed_code(run: RunDirectory, config: RunConfig) -> list[str]:
    """A note for each file of the user's own code whose content differs from the hash in the run."""
    if not run.config.exists() or not (run.versions() or run.checkpoint.exists()):
        return []
    said = "has changed since the run began; earlier stages were learned with its former content"
    files = [split_user_code(str(section["name"]))[0] for section in (config.model, config.strategy)]
    hashes = zip(files, _code_of(load_config(run.config)), _code_of(config), strict=True)
    return [f"{file}: {said}" for file, before, now in hashes if before is not None and before != now]
