"""Checks of a cohort before training or scoring: bags that are missing, damaged or empty, and labels that
are probably mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from comel.bags.foreign import bag_path, instance_count
from comel.base.names import shown_pair, similar
from comel.cohort.bags import BagStore
from comel.cohort.tasks import Case, TaskData
from comel.errors import BagError, FeatureMismatch, ManifestError, MissingBag

__all__ = ["check_bags", "doubtful_labels", "with_features", "with_instances"]

_NAMED = 5


def with_features(
    tasks: Sequence[TaskData], folder: Path, *, splits: Sequence[str] = ("train", "val", "test"), skip_missing: bool = False
) -> tuple[list[TaskData], list[str]]:
    """The tasks with the slides whose features are in the folder, and notes on what was left out.

    Args:
        tasks: from :func:`comel.cohort.tasks.load_tasks`.
        folder: feature files of any layout that :mod:`comel.bags.foreign` reads.
        splits: the splits whose cases are needed; others stay unchanged.
        skip_missing: leave out slides without features, and cases that have only such slides.

    Raises:
        BagError: there are slides without features, and they may not be left out; or the folder holds features of several
            encoders.
        ManifestError: a task has no training case left.
    """
    missing: dict[str, MissingBag] = {}

    def there(slide: str) -> bool:
        try:
            bag_path(folder, slide)
        except MissingBag as error:
            missing[slide] = error
        return slide not in missing

    found = [_kept(task, there, splits) for task in tasks]
    if not missing:
        return list(tasks), []
    if not skip_missing:
        first, *others = missing
        more = f", nor of {_listed(others)}" if others else ""
        why = " (failures.csv there says why some have none)" if (folder / "failures.csv").is_file() else ""
        raise BagError(f"{missing[first].what}{more}", f"extract the slides first{why}, or leave them out: --skip-missing")
    if "train" in splits:
        _check_training(tasks, found, "slides with features")
    return found, [f"left out {_listed([*missing])}: no features in {folder}"]


def with_instances(tasks: Sequence[TaskData], folder: Path) -> tuple[list[TaskData], list[str]]:
    """The tasks without training cases whose bags are empty, such as slides without tissue; and notes on them.

    The files' headers are read, so that a damaged file is found before hours of training, not after. A ``.pt`` has no
    header to check.

    Raises:
        BagError: a training slide's file is damaged.
        ManifestError: a task has no training case left.
    """
    empty: list[str] = []

    def holds_any(slide: str) -> bool:
        if instance_count(bag_path(folder, slide)) == 0:
            empty.append(slide)
            return False
        return True

    found = [_kept(task, holds_any, ("train",)) for task in tasks]
    if not empty:
        return list(tasks), []
    _check_training(tasks, found, "training slides with tissue")
    return found, [f"left out {_listed(empty)} of the training slides: no tissue"]


def check_bags(
    tasks: Sequence[TaskData], store: BagStore, advance: Callable[..., None] = lambda steps=1, text="": None
) -> None:
    """Read every case's bag once, so that an unusable one does not end training after hours. Bags that fit stay cached
    in the store.

    Args:
        tasks: the tasks whose cases are read, in all splits.
        store: the store to read from.
        advance: called after each case.

    Raises:
        FeatureMismatch: features were not made as the contract requires.
        BagError: files are damaged or hold values that no encoder outputs; each is named or counted.
    """
    bad: dict[str, BagError] = {}
    for case in {case.name: case for task in tasks for case in task.cases(None)}.values():
        try:
            store.read(case)
        except FeatureMismatch:
            raise  # there are no other errors to add
        except BagError as error:
            bad[case.name] = error
        advance(1, text=case.name)
    if bad:
        first, *others = bad
        more = f"; nor can {_listed(others)} be used" if others else ""
        raise BagError(f"{bad[first].what}{more}", bad[first].remedy)


def doubtful_labels(tasks: Sequence[TaskData], negative: str) -> list[str]:
    """Warnings about labels that are probably mistakes: a task in which every label is a finding, labels that look the same."""
    notes = []
    for head in {task.head.name: task.head for task in tasks}.values():
        if negative not in head.labels:
            notes.append(
                f"{head.name}: no label is '{negative}', so {', '.join(head.labels)} all count as findings; if one means that "
                f"there is none, give --set data.negative={head.labels[0]}"
            )
        for pair in similar(head.labels):
            one, other = shown_pair(*pair)
            notes.append(f"{head.name}: {one} and {other} are two labels; correct the manifest if they are one")
    return notes


def _kept(task: TaskData, wanted: Callable[[str], bool], splits: Sequence[str]) -> TaskData:
    def of_split(split: str) -> tuple[Case, ...]:
        if split not in splits:
            return task.cases(split)
        cases = (replace(case, slides=tuple(slide for slide in case.slides if wanted(slide))) for case in task.cases(split))
        return tuple(case for case in cases if case.slides)

    return replace(task, train=of_split("train"), val=of_split("val"), test=of_split("test"))


def _check_training(before: Sequence[TaskData], after: Sequence[TaskData], of_what: str) -> None:
    for one, other in zip(before, after, strict=True):
        if one.train and not other.train:
            raise ManifestError(f"task '{one.name}' has no {of_what}", "extract its slides, or leave the task out: data.tasks")


def _listed(slides: Sequence[str]) -> str:
    shown = ", ".join(slides[:_NAMED])
    if len(slides) == 1:
        return f"slide {shown}"
    return f"{len(slides)} slides ({shown}{', ...' if len(slides) > _NAMED else ''})"
