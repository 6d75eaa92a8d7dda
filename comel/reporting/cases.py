"""The test cases of a run's newest version: their classes, probabilities, and what follows from these."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comel.errors import RunError
from comel.runs.version import VersionInfo
from comel.scoring.metrics import bag_metrics

__all__ = ["CaseTable", "Roc", "best_and_worst", "calibration_error", "confusion", "read_cases", "reliability", "roc_curves"]

_REQUIRED = ("case_id", "patient_id", "task", "label")


@dataclass(frozen=True)
class CaseTable:
    """n test cases and C classes.

    Attributes:
        names, patients, tasks: (n,) of each case.
        classes: (C,) class names: ``task/label``, or the labels alone where all tasks share one head.
        truth: (n,) column of the true class.
        probabilities: (n, C), the task not given.
        strange: (n,) whether a case is unlike all that the version has learned, or None where that is not known.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    tasks: tuple[str, ...]
    classes: tuple[str, ...]
    truth: np.ndarray
    probabilities: np.ndarray
    strange: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) column of the predicted class."""
        predicted: np.ndarray = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def of_true_class(self) -> np.ndarray:
        """(n,) probability of the true class."""
        probability: np.ndarray = self.probabilities[np.arange(len(self)), self.truth]
        return probability


@dataclass(frozen=True)
class Roc:
    """The receiver operating characteristic of a class against all others: (k,) rates, and the area."""

    name: str
    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    auc: float


def read_cases(path: Path, info: VersionInfo) -> CaseTable:
    """Read ``evaluations/NNN.csv``.

    Args:
        path: the table.
        info: the version that made the predictions; it knows which head a task has.

    Raises:
        RunError: the table is damaged, or does not fit the version.
    """
    try:
        heads = info.model["heads"]
        columns = [(str(head["name"]), str(label)) for head in heads for label in head["labels"]]
        head_of = {task.name: str(heads[task.head]["name"]) for task in info.tasks}
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        probabilities = np.array([[float(row[f"p:{head}/{label}"]) for head, label in columns] for row in rows], np.float64)
        truth = np.array([columns.index((head_of[row["task"]], row["label"])) for row in rows], np.int64)
        distances = np.array([float(row.get("distance") or "nan") for row in rows])
        names, patients, tasks = (tuple(str(row[key]) for row in rows) for key in _REQUIRED[:3])
    except KeyError as error:
        raise RunError(f"{path}: damaged (no {error})", "restore the run from a copy") from None
    except (OSError, ValueError, TypeError, IndexError, csv.Error) as error:
        raise RunError(f"{path}: damaged ({error})", "restore the run from a copy") from None
    probabilities = probabilities.reshape(len(rows), len(columns))
    if not np.isfinite(probabilities).all():
        raise RunError(f"{path}: damaged (a probability is not a number)", "restore the run from a copy")
    classes = tuple(label if len(heads) == 1 and info.mode == "domain-incremental" else f"{h}/{label}" for h, label in columns)
    known = info.distance_threshold is not None and not np.isnan(distances).any()
    strange = distances > (info.distance_threshold or 0.0) if known else None
    return CaseTable(names, patients, tasks, classes, truth, probabilities, strange)


def roc_curves(cases: CaseTable) -> list[Roc]:
    """One curve a class that some cases have and others have not."""
    from sklearn.metrics import auc, roc_curve

    curves = []
    for column, name in enumerate(cases.classes):
        positive = cases.truth == column
        if 0 < positive.sum() < len(cases):
            false_rate, true_rate, _ = roc_curve(positive, cases.probabilities[:, column])
            curves.append(Roc(name, false_rate, true_rate, float(auc(false_rate, true_rate))))
    return curves


def reliability(cases: CaseTable, *, bins: int = 15) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of cases of each equal bin of the largest probability that holds a case.

    The bins are those of :func:`comel.scoring.metrics.bag_metrics`, whose calibration error is the mean gap between the two.
    """
    confidence, correct = cases.probabilities.max(axis=1), cases.predicted == cases.truth
    index = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return [
        (float(confidence[index == b].mean()), float(correct[index == b].mean()), int((index == b).sum()))
        for b in np.unique(index)
    ]


def calibration_error(cases: CaseTable) -> float | None:
    """The expected calibration error over all test cases, the task not given."""
    return bag_metrics(cases.probabilities, cases.truth)["ece"]


def confusion(cases: CaseTable) -> np.ndarray:
    """(C, C) counts, a row a true class, a column a predicted one."""
    size = len(cases.classes)
    return np.bincount(cases.truth * size + cases.predicted, minlength=size * size).reshape(size, size)


def best_and_worst(cases: CaseTable, *, count: int = 3) -> tuple[list[int], list[int]]:
    """Cases by the probability of their true class: the highest, best first, and the lowest, worst first.

    No case is in both lists: of few cases, half are the worst.
    """
    order = sorted(range(len(cases)), key=lambda i: (cases.of_true_class[i], cases.tasks[i], cases.names[i]))
    worst = order[: min(count, (len(order) + 1) // 2)]
    best = order[len(worst) :][::-1][:count]
    return best, worst
