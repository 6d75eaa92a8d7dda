"""The numbers of slides and patients a run was trained, validated and tested on, and the report's software."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from comel.base.version import comel_version
from comel.reporting.collect import Report

__all__ = ["SPLITS", "CohortRow", "cohort", "packages", "unreadable_cohort"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CohortRow:
    """A task's label with its slides and patients in each split, in the order of ``SPLITS``.

    Without a manifest only a task's slides are known: label and patients are None.
    """

    task: str
    label: str | None
    slides: tuple[int, ...]
    patients: tuple[int, ...] | None


def cohort(report: Report) -> list[CohortRow]:
    """The slides of the newest version's tasks, by task and label."""
    return list(_rows(report))


def _rows(report: Report) -> Iterator[CohortRow]:
    if report.newest is None:
        return
    for task in report.newest.tasks:
        split_of = {slide: split for split, slides in task.slides.items() for slide in slides}
        known = [row for row in report.data.slides.get(task.name, []) if row[0] in split_of]
        if len(known) < len(split_of) or not known:
            yield CohortRow(task.name, None, tuple(len(task.slides.get(split, [])) for split in SPLITS), None)
            continue
        for label in sorted({row[3] for row in known}):
            rows = [row for row in known if row[3] == label]
            by_split = [[row for row in rows if split_of[row[0]] == split] for split in SPLITS]
            patients = tuple(len({row[2] for row in members}) for members in by_split)
            yield CohortRow(task.name, label, tuple(map(len, by_split)), patients)


def unreadable_cohort(report: Report) -> str | None:
    """Why labels and patients are unknown, in words; None if they are known."""
    if report.data.manifest is None:
        return "The settings do not name a manifest."
    if report.data.checksum is None:
        return f"The manifest {report.data.manifest} no longer exists, so labels and patients are unknown."
    if any(row.patients is None for row in cohort(report)):
        return f"The manifest {report.data.manifest} lacks slides of some tasks, whose labels and patients are unknown."
    return None


def packages() -> list[tuple[str, str]]:
    """The versions of the software that wrote the report."""
    found = [(name, metadata.version(name)) for name in ("torch", "peft", "numpy")]
    return [("comel", comel_version()), *found, ("python", platform.python_version()), ("platform", platform.platform())]
