"""The test cases of a run's newest version: their classes, probabilities, and what follows from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from comel.base.units import Mode
from comel.runs.version import VersionInfo
from comel.scoring.case_results import CaseResult
from comel.scoring.metrics import bag_metrics

__all__ = ["CaseTable", "Roc", "best_and_worst", "calibration_error", "case_table", "confusion", "reliability", "roc_curves"]


@dataclass(frozen=True)
class CaseTable:
    """n test cases and C classes.

    Attributes:
        names, patients, tasks: (n,) one per case.
        classes: (C,) class names: ``task/label``, or the labels alone where all tasks share one head.
        truth: (n,) column of the true class.
        probabilities: (n, C), the task not given.
        strange: (n,) whether a case is unlike anything the version has learned, or None if unknown.
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


def case_table(results: Sequence[CaseResult], info: VersionInfo) -> CaseTable:
    """The test cases as a version's evaluation has them (:func:`comel.scoring.case_results.read_results`)."""
    distances = np.array([result.distance for result in results], np.float64)
    farthest = info.distance_threshold
    strange = distances > farthest if farthest is not None and np.isfinite(distances).all() else None
    return CaseTable(
        names=tuple(result.case.name for result in results),
        patients=tuple(result.case.patient for result in results),
        tasks=tuple(result.task for result in results),
        classes=info.classes.heads[0].labels if info.mode == Mode.DOMAIN else info.classes.names,
        truth=np.array([result.column for result in results], np.int64),
        probabilities=np.array([result.probabilities for result in results]).reshape(len(results), len(info.classes)),
        strange=strange,
    )


def roc_curves(cases: CaseTable) -> list[Roc]:
    """One curve for each class that some cases have and others do not."""
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
    """(C, C) counts, one row per true class, one column per predicted class."""
    size = len(cases.classes)
    return np.bincount(cases.truth * size + cases.predicted, minlength=size * size).reshape(size, size)


def best_and_worst(cases: CaseTable, *, count: int = 3) -> tuple[list[int], list[int]]:
    """Cases by the probability of their true class: the highest, best first, and the lowest, worst first.

    No case is in both lists: if there are few cases, half are the worst.
    """
    order = sorted(range(len(cases)), key=lambda i: (cases.of_true_class[i], cases.tasks[i], cases.names[i]))
    worst = order[: min(count, (len(order) + 1) // 2)]
    best = order[len(worst) :][::-1][:count]
    return best, worst
