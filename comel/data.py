"""From a manifest and a folder of feature files to tasks of labelled bags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from comel.bag import Bag, FeatureContract
from comel.classes import Head
from comel.config import DataConfig
from comel.errors import BagError, ConfigError, FeatureMismatch, ManifestError
from comel.foreign import bag_path, read_any_bag
from comel.geometry import tile_cells, tile_spacing
from comel.manifest import SPLITS, Manifest, ManifestRow, read_manifest
from comel.splits import assign_splits, split_by_fold

__all__ = ["BagStore", "Case", "TaskData", "join_slides", "load_tasks"]

_ROWS_BETWEEN_SLIDES = 16
"""So many that no square of tiles is of two slides, where squares are as large as they are by default."""


@dataclass(frozen=True)
class Case:
    """One bag: a case's slides, their label, and who they come from."""

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
        return {split: [slide for case in self.cases(split) for slide in case.slides] for split in ("train", "val", "test")}


class BagStore:
    """Reads bags by case, checks them against the feature contract, and keeps them in memory while there is room.

    Which were read first stay: an epoch passes over all of a stage's bags, and would find none of those that it read last.

    Args:
        folder: feature files.
        contract: what features must be like; None takes it from the first bag read.
        assume_encoder: encoder of files that do not name theirs.
        cache_bytes: memory for bags that are kept.
    """

    def __init__(
        self,
        folder: Path,
        contract: FeatureContract | None = None,
        *,
        assume_encoder: str | None = None,
        cache_bytes: float = 2 * 2**30,
    ) -> None:
        self.folder, self.contract = Path(folder), contract
        self._assume_encoder, self._room = assume_encoder, cache_bytes
        self._kept: dict[str, Bag] = {}

    def read(self, case: Case) -> Bag:
        """A case's bag.

        Raises:
            BagError: a file is missing or damaged.
            FeatureMismatch: its features were made otherwise than the contract says.
        """
        if case.name in self._kept:
            return self._kept[case.name]
        bags = []
        for slide in case.slides:
            path = bag_path(self.folder, slide)
            bag = read_any_bag(path, assume_encoder=self._assume_encoder)
            self.contract = self.contract or bag.contract
            check_contract(self.contract, bag, path)
            bags.append(bag)
        joined = join_slides(case.name, bags)
        if _bytes(joined) <= self._room:
            self._room -= _bytes(joined)
            self._kept[case.name] = joined
        return joined

    def keep_only(self, cases: Iterable[Case]) -> None:
        """Forget the bags of all other cases, so that there is room for these, such as those of a stage that begins."""
        names = {case.name for case in cases}
        for name in [name for name in self._kept if name not in names]:
            self._room += _bytes(self._kept.pop(name))


def check_contract(contract: FeatureContract, bag: Bag, where: Path | str) -> None:
    """Raise :class:`FeatureMismatch` unless the bag's features were made as the contract says."""
    difference = contract.difference(bag.contract)
    if difference is None:
        return
    remedy = "extract the slides with the encoder and the tile size of the others"
    if bag.contract.encoder is None and contract.encoder is not None:
        remedy = f"if the features are from it, say --assume-encoder {contract.encoder}"
    elif len(bag.contract.joined_mpp) < len(contract.joined_mpp):
        remedy = "extract the slides at these scales, and join them: comel bags join-scales"
    raise FeatureMismatch(f"{where}: {difference}", remedy)


def join_slides(name: str, bags: Sequence[Bag]) -> Bag:
    """One bag from a case's slides, each below the one before it, all with the tile distance of the first.

    So no two tiles share a place, and tiles are neighbours where they were, whatever the slides' resolutions.
    """
    if len(bags) == 1:
        return bags[0]
    features = np.concatenate([bag.features for bag in bags])
    labels = None
    if all(bag.labels is not None for bag in bags):
        labels = np.concatenate([bag.labels for bag in bags if bag.labels is not None])
    coords = None
    placed = [bag.coords for bag in bags if bag.coords is not None]
    if len(placed) == len(bags):
        laid, below = [], 0
        for one in placed:
            cells = tile_cells(one) + np.array([0, below])
            below = int(cells[:, 1].max(initial=below)) + _ROWS_BETWEEN_SLIDES
            laid.append(cells)
        coords = np.rint(np.concatenate(laid) * tile_spacing(placed[0])).astype(np.int64)
    shared = replace(bags[0], slide_id=name, geometry=None, quality={}, parent=None, scales=())
    return replace(shared, features=features, coords=coords, labels=labels)


def load_tasks(config: DataConfig, *, dealt: Mapping[tuple[str, str], str] | None = None) -> list[TaskData]:
    """The tasks of a run in the order they arrive.

    Args:
        config: which manifest and bags, and how they make up tasks.
        dealt: None to train: every task needs a training case, and slides without a split are dealt out. To evaluate, the
            splits of (task, slide) that a run was trained with: they stand, other slides follow their patient, or else are as
            the manifest says, and those without a split are test cases.

    Raises:
        ConfigError: no manifest or bags are named, or labels do not fit.
        ManifestError: the manifest cannot be used, or a row's label is unknown.
    """
    if config.manifest is None:
        raise ConfigError("no manifest is named", "give --manifest cohort.csv or data.manifest in the config")
    if config.bags is None:
        raise ConfigError("no folder of bags is named", "give --bags FOLDER or data.bags in the config")
    if not config.bags.is_dir():
        raise ConfigError(f"{config.bags}: no such folder", "extract the slides first: comel extract MANIFEST --out FOLDER")
    manifest = read_manifest(config.manifest, root=config.root, tasks=config.tasks)
    heads = _heads(manifest, config)
    splits = _splits(manifest.rows, config) if dealt is None else _as_dealt(manifest.rows, dealt)
    tasks = []
    for name in manifest.tasks:
        rows = manifest.select(task=name)
        by_split = {split: tuple(_cases(rows, splits, split)) for split in ("train", "val", "test")}
        if dealt is None and not by_split["train"]:
            raise ManifestError(f"{manifest.path.name}: task '{name}' has no training slide", "mark some with split 'train'")
        tasks.append(TaskData(name, heads[name], by_split["train"], by_split["val"], by_split["test"]))
    return tasks


def _heads(manifest: Manifest, config: DataConfig) -> dict[str, Head]:
    """The head of each task; in a domain-incremental run all tasks share one."""
    declared = config.labels or {}
    for task in declared:
        if task not in manifest.tasks and config.mode == "class-incremental":
            raise ConfigError(f"data.labels names the task '{task}'", f"the manifest has {', '.join(manifest.tasks)}")
    labels = {
        task: tuple(declared.get(task, _negative_first(manifest.labels(task), config.negative))) for task in manifest.tasks
    }
    if config.mode == "domain-incremental":
        every = [label for task in manifest.tasks for label in labels[task]]
        shared = tuple(_negative_first(list(dict.fromkeys(every)), config.negative))
        labels = dict.fromkeys(manifest.tasks, shared)
    for row in manifest.rows:
        if row.label not in labels[row.task]:
            known = ", ".join(labels[row.task])
            raise ManifestError(
                f"{manifest.path.name} row {row.row} column label: unknown label '{row.label}'", f"'{row.task}' has {known}"
            )
    negative = {task: config.negative if config.negative in labels[task] else None for task in manifest.tasks}
    if config.mode == "domain-incremental":
        first = manifest.tasks[0]
        return dict.fromkeys(manifest.tasks, Head("all domains", labels[first], negative[first]))
    return {task: Head(task, labels[task], negative[task]) for task in manifest.tasks}


def _negative_first(labels: list[str], negative: str) -> list[str]:
    return sorted(labels, key=lambda label: label != negative)


def _splits(rows: Sequence[ManifestRow], config: DataConfig) -> dict[str, str]:
    if config.fold is not None:
        return split_by_fold(rows, config.fold, val_fraction=config.val_fraction)
    return assign_splits(rows, val_fraction=config.val_fraction, test_fraction=config.test_fraction)


def _as_dealt(rows: Sequence[ManifestRow], dealt: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """The split of each slide as a run dealt it out; a slide that it did not see goes where its patient is."""
    own = {row.slide_id: dealt.get((row.task, row.slide_id)) for row in rows}
    of_patient: dict[str, str] = {}
    for row in rows:
        if (split := own[row.slide_id]) is not None:
            of_patient[row.patient] = min(split, of_patient.get(row.patient, split), key=SPLITS.index)
    return {row.slide_id: own[row.slide_id] or of_patient.get(row.patient) or row.split or "test" for row in rows}


def _cases(rows: Sequence[ManifestRow], splits: dict[str, str], split: str) -> Iterator[Case]:
    grouped: dict[str, list[ManifestRow]] = {}
    for row in rows:
        if splits[row.slide_id] == split:
            grouped.setdefault(row.case, []).append(row)
    for name, members in grouped.items():
        yield Case(name, members[0].patient, members[0].label, tuple(row.slide_id for row in members))


def _bytes(bag: Bag) -> int:
    return sum(array.nbytes for array in bag.arrays().values())


def usable(bag: Bag) -> Bag:
    """The bag, if it has an instance to learn from.

    Raises:
        BagError: it is empty.
    """
    if not len(bag):
        raise BagError(f"{bag.slide_id}: the bag has no instance (no tissue)", "take the slide out of the training rows")
    return bag
