"""How many slides and patients a run was trained, validated and tested on, and what made the report."""

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

    Without a manifest there are a task's slides alone: label and patients are None.
    """

    task: str
    label: str | None
    slides: tuple[int, ...]
    patients: tuple[int, ...] | None


def cohort(report: Report) -> list[CohortRow]:
    """The slides that the newest version's tasks were dealt, by task and label."""
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
    """Why labels and patients cannot be told, in words; None where they can."""
    if report.data.manifest is None:
        return "The settings name no manifest."
    if report.data.checksum is None:
        return f"The manifest {report.data.manifest} is not there any more, so labels and patients cannot be told."
    if any(row.patients is None for row in cohort(report)):
        return f"The manifest {report.data.manifest} lacks slides of some tasks, whose labels and patients cannot be told."
    return None


def packages() -> list[tuple[str, str]]:
    """Versions of what the report was written with."""
    found = [(name, metadata.version(name)) for name in ("torch", "peft", "numpy")]
    return [("comel", comel_version()), *found, ("python", platform.python_version()), ("platform", platform.platform())]
