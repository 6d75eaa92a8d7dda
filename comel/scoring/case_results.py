"""A model's answers for labelled cases: in memory, and as a CSV with one row per case (``evaluations/NNN.csv``)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from comel.base.files import atomic_path
from comel.base.text import first_line
from comel.cohort.classes import ClassSpace
from comel.cohort.tasks import Case
from comel.errors import ComelError, RunError
from comel.runs.version import VersionInfo

__all__ = ["CaseResult", "read_results", "write_results"]

_MAX_BYTES = 1 << 30
_ANY, _GIVEN = "p:", "given:"


@dataclass(frozen=True)
class CaseResult:
    """The model's answer for one labelled case.

    Attributes:
        case, task, column: the case, its task, and the column of its label.
        positive: whether the label is a finding.
        probabilities: (C,) over all classes.
        within: (C,) within the case's own task, 0 elsewhere.
        raw_probabilities, raw_within: the same without the heads' temperatures; None if unknown.
        head_logits: (L,) the task's own head's logits, without temperature; None if unknown.
        place: the label's position in the head.
        scores: (N,) instance scores of the predicted task.
        scores_given: (N,) instance scores with the task given.
        labels: (N,) instance labels, or None.
        coords: (N, 2) level-0 corners of the tiles, or None.
        distance: distance from what the model has learned (:mod:`comel.scoring.novelty`), or None if the model cannot tell.
        classes: the columns' classes; None if unknown.
    """

    case: Case
    task: str
    column: int
    positive: bool
    probabilities: np.ndarray
    within: np.ndarray
    raw_probabilities: np.ndarray | None = None
    raw_within: np.ndarray | None = None
    head_logits: np.ndarray | None = None
    place: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    scores_given: np.ndarray = field(default_factory=lambda: np.empty(0))
    labels: np.ndarray | None = None
    coords: np.ndarray | None = None
    distance: float | None = None
    classes: ClassSpace | None = None


def write_results(path: Path, results: Sequence[CaseResult], classes: Sequence[str], **columns: Sequence[object]) -> None:
    """Write each case's label, the prediction with the task unknown and with the task given, its distance from what was
    learned, and all probabilities.

    Args:
        path: the CSV. ``p:<class>`` holds the probability over all classes, ``given:<class>`` the one within the case's task.
        results: the cases.
        classes: names of the columns of the probabilities.
        columns: further columns by name, one value per case.
    """
    import pandas

    rows = [
        {
            **{name: values[i] for name, values in columns.items()},
            "case_id": result.case.name,
            "patient_id": result.case.patient,
            "task": result.task,
            "label": result.case.label,
            "predicted": classes[int(result.probabilities.argmax())],
            "predicted_with_task_given": classes[int(result.within.argmax())],
            "distance": result.distance,
            **{_ANY + name: float(p) for name, p in zip(classes, result.probabilities, strict=True)},
            **{_GIVEN + name: float(p) for name, p in zip(classes, result.within, strict=True)},
        }
        for i, result in enumerate(results)
    ]
    with atomic_path(path) as temporary:
        pandas.DataFrame(rows).to_csv(temporary, index=False)


def read_results(path: Path, info: VersionInfo) -> list[CaseResult]:
    """The inverse of :func:`write_results`, for bags only: instances are not in the table.

    Args:
        path: the CSV.
        info: the version that made it.

    Raises:
        RunError: the file is missing or damaged, or does not fit the version.
    """
    try:
        classes, heads = info.classes, {task.name: task.head for task in info.tasks}
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"holds {size >> 20} MiB")
        with open(path, encoding="utf-8", newline="") as stream:
            results = [_result(row, classes, heads[row["task"]]) for row in csv.DictReader(stream)]
    except KeyError as error:
        raise RunError.damaged(path, f"no {error}") from None
    except (OSError, ValueError, TypeError, LookupError, csv.Error, ComelError) as error:
        raise RunError.damaged(path, first_line(error)) from None
    if not all(np.isfinite(result.probabilities).all() and np.isfinite(result.within).all() for result in results):
        raise RunError.damaged(path, "a probability is not a number")
    return results


def _result(row: Mapping[str, str], classes: ClassSpace, head: int) -> CaseResult:
    column = classes.column(head, row["label"])
    return CaseResult(
        case=Case(row["case_id"], row["patient_id"], row["label"], ()),
        task=row["task"],
        column=column,
        positive=classes.positive[column],
        probabilities=np.array([float(row[_ANY + name]) for name in classes.names]),
        within=np.array([float(row[_GIVEN + name]) for name in classes.names]),
        distance=float(row["distance"]) if row.get("distance") else None,
        classes=classes,
    )
