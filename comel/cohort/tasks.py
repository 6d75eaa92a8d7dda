"""From a cohort and a folder of feature files to tasks of labelled bags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from comel.base.names import look, shown_pair
from comel.base.units import Mode
from comel.cohort.classes import Head
from comel.cohort.config import DataConfig
from comel.cohort.manifest import SPLITS, Manifest, ManifestRow, read_manifest
from comel.cohort.splits import assign_splits, split_by_fold
from comel.errors import ConfigError, ManifestError

__all__ = ["Case", "TaskData", "load_tasks", "named_in", "read_cohort"]


@dataclass(frozen=True)
class Case:
    """One bag: a case's slides, their label and their patient."""

    name: str
    patient: str
    label: str
    slides: tuple[str, ...]


@dataclass(frozen=True)
class TaskData:
    """A task's cases by split, and the head they belong to."""

    name: str
    head: Head
    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def cases(self, split: str | None) -> tuple[Case, ...]:
        """The cases of a split, or all of them."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if split is None:
            return tuple(case for cases in splits.values() for case in cases)
        return splits[split]

    def slides(self) -> dict[str, list[str]]:
        """The slides of each split."""
        return {split: [slide for case in self.cases(split) for slide in case.slides] for split in SPLITS}

    def patients(self) -> dict[str, set[str]]:
        """The patients of each split."""
        return {split: {case.patient for case in self.cases(split)} for split in SPLITS}


def read_cohort(config: DataConfig) -> Manifest:
    """The manifest that the settings name, with all its tasks.

    Raises:
        ConfigError: none is named.
        ManifestError: it cannot be used.
    """
    if config.manifest is None:
        raise ConfigError("no manifest is named", "give --manifest cohort.csv or data.manifest in the config")
    return read_manifest(config.manifest, root=config.root, names=named_in(config))


def named_in(config: DataConfig) -> set[str]:
    """The labels and tasks that settings name; in a manifest they count as names, even "null"."""
    labels = config.labels or {}
    return {config.negative, *(config.tasks or ()), *labels, *(label for known in labels.values() for label in known)}


def load_tasks(manifest: Manifest, config: DataConfig, *, splits: Mapping[str, str] | None = None) -> list[TaskData]:
    """The tasks of a run in the order they arrive.

    Args:
        manifest: the cohort.
        config: the bags, and how they and the cohort make up tasks.
        splits: None to train: every task needs a training case, and slides without a split are assigned one. To evaluate, the
            split of every slide (:func:`comel.cohort.seen.splits_to_evaluate`).

    Raises:
        ConfigError: no bags are named, or labels do not fit.
        ManifestError: the manifest has no such task, or a row's label is unknown.
    """
    if config.bags is None:
        raise ConfigError("no folder of bags is named", "give --bags FOLDER or data.bags in the config")
    if not config.bags.is_dir():
        raise ConfigError(f"{config.bags}: no such folder", "extract the slides first: comel extract MANIFEST --out FOLDER")
    manifest = manifest.of_tasks(config.tasks)
    heads = _heads(manifest, config)
    split_of = _splits(manifest.rows, config) if splits is None else splits
    tasks = []
    for name in manifest.tasks:
        rows = manifest.select(task=name)
        by_split = {split: tuple(_cases(rows, split_of, split)) for split in ("train", "val", "test")}
        if splits is None and not by_split["train"]:
            raise ManifestError(f"{manifest.path.name}: task '{name}' has no training slide", "mark some with split 'train'")
        tasks.append(TaskData(name, heads[name], by_split["train"], by_split["val"], by_split["test"]))
    return tasks


def _heads(manifest: Manifest, config: DataConfig) -> dict[str, Head]:
    """The head of each task; in a domain-incremental run all tasks share one."""
    declared = config.labels or {}
    for task in declared:
        if task not in manifest.tasks and config.mode == Mode.CLASS:
            raise ConfigError(f"data.labels names the task '{task}'", f"the manifest has {', '.join(manifest.tasks)}")
    labels = {
        task: tuple(declared.get(task, _negative_first(manifest.labels(task), config.negative))) for task in manifest.tasks
    }
    if config.mode == Mode.DOMAIN:
        every = [label for task in manifest.tasks for label in labels[task]]
        shared = tuple(_negative_first(list(dict.fromkeys(every)), config.negative))
        labels = dict.fromkeys(manifest.tasks, shared)
    for row in manifest.rows:
        if row.label not in labels[row.task]:
            known = ", ".join(labels[row.task])
            said = f"{manifest.path.name} row {row.row} column label: unknown label '{row.label}'"
            near = [label for label in labels[row.task] if look(label) == look(row.label)]
            if near:
                one, other = shown_pair(near[0], row.label)
                raise ManifestError(said, f"data.labels has {one}, the manifest {other}: write it the same in both")
            raise ManifestError(said, f"'{row.task}' has {known}")
    negative = {task: config.negative if config.negative in labels[task] else None for task in manifest.tasks}
    if config.mode == Mode.DOMAIN:
        first = manifest.tasks[0]
        return dict.fromkeys(manifest.tasks, Head("all domains", labels[first], negative[first]))
    return {task: Head(task, labels[task], negative[task]) for task in manifest.tasks}


def _negative_first(labels: list[str], negative: str) -> list[str]:
    return sorted(labels, key=lambda label: label != negative)


def _splits(rows: Sequence[ManifestRow], config: DataConfig) -> dict[str, str]:
    if config.fold is not None:
        return split_by_fold(rows, config.fold, val_fraction=config.val_fraction)
    return assign_splits(rows, val_fraction=config.val_fraction, test_fraction=config.test_fraction)


def _cases(rows: Sequence[ManifestRow], splits: Mapping[str, str], split: str) -> Iterator[Case]:
    grouped: dict[str, list[ManifestRow]] = {}
    for row in rows:
        if splits[row.slide_id] == split:
            grouped.setdefault(row.case, []).append(row)
    for name, members in grouped.items():
        yield Case(name, members[0].patient, members[0].label, tuple(row.slide_id for row in members))
