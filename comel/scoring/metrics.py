"""The scores of bags, of instances and of a sequence of tasks, and their uncertainty.

Scores are fractions from 0 to 1. A score that is not defined on the data at hand (an AUC over one class, forgetting after one
task) is None, never NaN, so that it can be written as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from comel.base.thresholds import all_equal, from_threshold

__all__ = [
    "bag_metrics",
    "bootstrap_counts",
    "calibration_error",
    "choose_threshold",
    "continual_metrics",
    "instance_metrics",
    "percentile_interval",
]

Scores = dict[str, float | None]


def bag_metrics(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> Scores:
    """Scores of bag predictions.

    Means over classes are over the classes that ``labels`` holds. The AUC is one-vs-rest; the expected calibration error is
    :func:`calibration_error`.

    Args:
        probabilities: (n, C), one row per bag.
        labels: (n,) class indices 0 .. C - 1.
        bins: number of bins of the calibration error.

    Returns:
        ``accuracy, balanced_accuracy, auc, precision, recall, f1, ece``; all None without bags, and ``auc`` None
        if there is only one class.

    Raises:
        ValueError: shapes that do not fit, NaN, or a label that is not a column.
    """
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    table, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if table.ndim != 2 or truth.shape != (len(table),) or not np.isfinite(table).all():
        raise ValueError(f"finite probabilities (n, C) and labels (n,) expected, not {table.shape} and {truth.shape}")
    if len(truth) == 0:
        return dict.fromkeys(("accuracy", "balanced_accuracy", "auc", "precision", "recall", "f1", "ece"))
    present = np.unique(truth)
    if present[0] < 0 or present[-1] >= table.shape[1]:
        raise ValueError(f"labels {present[0]} .. {present[-1]} of {table.shape[1]} classes")
    predicted = table.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=present, average="macro", zero_division=0
    )
    areas = [roc_auc_score(truth == label, table[:, label]) for label in present] if len(present) > 1 else []
    return {
        "accuracy": float((predicted == truth).mean()),
        "balanced_accuracy": float(recall),
        "auc": float(np.mean(areas)) if areas else None,
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "ece": calibration_error(table, truth, bins=bins),
    }


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float | None:
    """The expected calibration error over equal bins of the largest probability (Guo et al., "On calibration of modern neural
    networks", ICML 2017).

    Args:
        probabilities: (n, C).
        labels: (n,) columns.
        bins: number of bins.

    Returns:
        The mean over bags of the distance, in their bin, of confidence from accuracy; None without bags.
    """
    if len(labels) == 0:
        return None
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    gap = np.bincount(np.digitize(confidence, edges, right=True), weights=correct - confidence)
    return float(np.abs(gap).sum() / len(labels))


def instance_metrics(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, threshold: float = 0.5) -> Scores:
    """Scores of instance predictions over slides.

    An instance is predicted positive from ``threshold`` on; none of a slide whose scores are all equal
    (:func:`comel.base.thresholds.from_threshold`). A positive slide is one with a positive instance. Instances with
    label -1 count nowhere.

    Args:
        scores: one (N,) array per slide.
        labels: one (N,) array per slide: 1 positive, 0 negative, -1 unknown.
        threshold: chosen on validation data (:func:`choose_threshold`), never on the data scored here.

    Returns:
        ``auc`` over the instances of all slides pooled; ``accuracy_all_slides, accuracy_positive_slides, f1_all_slides,
        f1_positive_slides`` over pooled instances; ``dice, iou``: the mean over positive slides of each slide's own.

    Raises:
        ValueError: scores and labels that do not match each other, NaN, or labels other than these.
    """
    slides = []
    for one, truth in zip(map(np.asarray, scores), map(np.asarray, labels), strict=True):
        if one.ndim != 1 or one.shape != truth.shape or not np.isfinite(one).all() or not np.isin(truth, (-1, 0, 1)).all():
            raise ValueError(f"finite scores (N,) and labels 1, 0, -1 expected, not {one.shape} and {truth.shape}")
        known = truth >= 0
        slides.append((one[known], from_threshold(one, threshold)[known], truth[known] == 1))
    positive = [(called, truth) for _, called, truth in slides if truth.any()]
    counts = [_counts(called, truth) for called, truth in positive]
    pooled, pooled_positive = _pooled([(called, truth) for _, called, truth in slides]), _pooled(positive)
    every, inside = _counts(*pooled), _counts(*pooled_positive)
    return {
        "auc": _auc(*_pooled([(one, truth) for one, _, truth in slides])),
        "accuracy_all_slides": _ratio(every["tp"] + every["tn"], len(pooled[0])),
        "accuracy_positive_slides": _ratio(inside["tp"] + inside["tn"], len(pooled_positive[0])),
        "f1_all_slides": _dice(every),
        "f1_positive_slides": _dice(inside),
        "dice": _mean([_dice(count) for count in counts]),
        "iou": _mean([_ratio(count["tp"], count["tp"] + count["fp"] + count["fn"]) for count in counts]),
    }


def choose_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """The threshold that maximises the true minus the false positive rate (Youden, Cancer 3:32, 1950).

    Args:
        scores: (N,); positive is ``score >= threshold``.
        labels: (N,) 1 positive, 0 negative, -1 unknown.

    Returns:
        One of the scores (the highest of equally good ones), or 0.5 if no threshold is better than chance: one kind of
        label only, or scores that do not separate them.
    """
    from sklearn.metrics import roc_curve

    values, truth = np.asarray(scores), np.asarray(labels)
    values, truth = values[truth >= 0], truth[truth >= 0]
    if len(np.unique(truth)) < 2 or all_equal(values):
        return 0.5
    false_rate, true_rate, thresholds = roc_curve(truth, values)
    best = int(np.argmax(true_rate - false_rate))
    return float(thresholds[best]) if true_rate[best] > false_rate[best] else 0.5


def continual_metrics(matrix: Sequence[Sequence[float | None]], *, chance: Sequence[float | None] | None = None) -> Scores:
    """Scores of a sequence of T tasks from its matrix R, where R[t][i] is the score on task i after training task t.

    ``final_average``
        mean of the last row.
    ``average_over_time``
        mean over t of the mean of R[t][0 .. t].
    ``backward_transfer``
        mean over i < T - 1 of R[T-1][i] - R[i][i] (Lopez-Paz and Ranzato, NeurIPS 2017).
    ``forgetting``
        mean over i < T - 1 of the maximum of R[i][i] .. R[T-1][i], minus R[T-1][i]; never negative.
    ``forward_transfer``
        mean of R[i-1][i] - chance[i] over the tasks i > 0 that could be scored before they were trained.

    Args:
        matrix: (T, T), or (1, T) if all tasks were trained jointly; None or NaN for a missing score. Values above
            the diagonal serve forward transfer only.
        chance: (T,) scores of an untrained model, None if missing; without them there is no forward transfer.

    Returns:
        The five scores. A score that needs a missing value is None, and so are the transfers and forgetting after one
        row.

    Raises:
        ValueError: the matrix has a different shape.
    """
    scores = np.array([[np.nan if value is None else value for value in row] for row in matrix], dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0 or scores.shape[0] not in (1, scores.shape[1]):
        raise ValueError(f"a matrix (T, T) or (1, T) expected, not {scores.shape}")
    count = len(scores)
    if count == 1:
        average = _defined(scores[0].mean())
        return {
            "final_average": average,
            "average_over_time": average,
            "backward_transfer": None,
            "forgetting": None,
            "forward_transfer": None,
        }
    last, own, old = scores[-1], scores.diagonal(), range(count - 1)
    ahead = scores.diagonal(1) - (np.asarray(chance, dtype=np.float64)[1:] if chance is not None else np.nan)
    return {
        "final_average": _defined(last.mean()),
        "average_over_time": _defined(np.mean([scores[task, : task + 1].mean() for task in range(count)])),
        "backward_transfer": _defined(np.mean(last[:-1] - own[:-1])),
        "forgetting": _defined(np.mean([scores[task:, task].max() - last[task] for task in old])),
        "forward_transfer": _mean([_defined(value) for value in ahead]),
    }


def bootstrap_counts(patients: Sequence[str], *, n: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each bag is in each resample of the patients (Efron and Tibshirani, 1993, chapter 13).

    Patients, not bags, are drawn, because the bags of a patient resemble each other.

    Args:
        patients: the patient of each bag.
        n: number of resamples.
        seed: the seed of the resampling.

    Returns:
        (n, bags) float64.
    """
    names, of_bag = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    counts, generator = np.zeros((n, len(names))), np.random.default_rng(seed)
    for row in counts if len(names) else ():
        row += np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
    return counts[:, of_bag]


def percentile_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float] | None:
    """The two ends between which the share ``level`` of resampled values lies, or None if fewer than half are defined.

    Args:
        values: (n,), NaN where a resample does not define the statistic.
        level: the share between the ends.
    """
    found = values[np.isfinite(values)]
    if len(found) < max(1, len(values) / 2):
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _pooled(slides: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    empty = np.empty(0, dtype=bool)
    return np.concatenate([empty, *(one for one, _ in slides)]), np.concatenate([empty, *(truth for _, truth in slides)])


def _counts(predicted: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    return {
        "tp": int((predicted & truth).sum()),
        "fp": int((predicted & ~truth).sum()),
        "fn": int((~predicted & truth).sum()),
        "tn": int((~predicted & ~truth).sum()),
    }


def _dice(count: Mapping[str, int]) -> float | None:
    """2 TP / (2 TP + FP + FN), which is also F1."""
    return _ratio(2 * count["tp"], 2 * count["tp"] + count["fp"] + count["fn"])


def _auc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores)) if len(np.unique(truth)) == 2 else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
