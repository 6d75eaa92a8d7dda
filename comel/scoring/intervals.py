"""95 % intervals of the main scores, by resampling patients.

All resamples are computed at once: how often each case is drawn determines accuracy, AUC and Dice of a resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from comel.base.units import Mode
from comel.scoring.case_results import CaseResult
from comel.scoring.continual import Interval, Key, ScoreTable
from comel.scoring.metrics import bootstrap_counts, instance_metrics, percentile_interval
from comel.scoring.task_scores import View, score_task, views

__all__ = ["score_cases", "score_intervals"]

_RESAMPLES = 1000
_BINS = 4096
_MAIN = (("bag", "accuracy"), ("bag", "auc"), ("instance", "auc"), ("instance", "dice"))


def score_cases(results: Mapping[str, Sequence[CaseResult]], thresholds: Mapping[str, float], mode: Mode) -> ScoreTable:
    """All scores of each task's cases, and the intervals of the main ones; arguments as of :func:`score_intervals`."""
    table = ScoreTable([row for task, cases in results.items() for row in score_task(task, cases, thresholds[task], mode)])
    return table.with_intervals(score_intervals(results, thresholds, mode), table.mean)


def score_intervals(
    results: Mapping[str, Sequence[CaseResult]], thresholds: Mapping[str, float], mode: Mode, *, seed: int = 0
) -> dict[tuple[Key, str | None], Interval]:
    """Intervals of bag accuracy and AUC and of instance AUC and Dice.

    Patients are drawn over all tasks together. Instance AUC uses the tiles' scores in at most 4096 steps.

    Args:
        results: each task's cases.
        thresholds: each task's instance threshold.
        mode: the run's mode.
        seed: the seed of the resampling.

    Returns:
        Both ends by score and task, and under the task None those of the mean over the tasks whose score is defined. An
        interval is None if fewer than half of the resamples define it, or there is only one patient.
    """
    every = [result for cases in results.values() for result in cases]
    patients = [result.case.patient for result in every]
    enough = len(set(patients)) > 1
    counts = bootstrap_counts(patients, n=_RESAMPLES, seed=seed)
    found: dict[tuple[Key, str | None], Interval] = {}
    for asked, view in views(mode).items():
        start, resampled = 0, {}
        for task, cases in results.items():
            resampled[task] = _resampled(cases, counts[:, start : start + len(cases)], view, thresholds[task])
            start += len(cases)
        for kind, name in _MAIN:
            by_task: dict[str | None, np.ndarray] = {task: values[kind, name] for task, values in resampled.items()}
            defined = [values for values in by_task.values() if np.isfinite(values).any()]
            by_task[None] = np.mean(defined, axis=0) if defined else np.full(_RESAMPLES, np.nan)
            for whose, values in by_task.items():
                found[(kind, asked, name), whose] = percentile_interval(values) if enough else None
    return found


def _resampled(
    cases: Sequence[CaseResult], counts: np.ndarray, view: View, threshold: float
) -> dict[tuple[str, str], np.ndarray]:
    """Each score of one task in every resample, (resamples,); NaN if it is not defined."""
    undefined = np.full(len(counts), np.nan)
    if not cases:
        return dict.fromkeys(_MAIN, undefined)
    table = np.array([view.probabilities(case) for case in cases])
    truth = np.array([case.column for case in cases])
    areas = np.array([_auc(table[:, c], truth == c, np.arange(len(cases)), counts) for c in np.unique(truth)])
    labelled = [(i, view.instances(case), case.labels) for i, case in enumerate(cases) if case.labels is not None]
    known = [(i, scores[labels >= 0], labels[labels >= 0] == 1) for i, scores, labels in labelled]
    instance_auc, dice = undefined, undefined
    if known:
        pooled, positive = np.concatenate([one for _, one, _ in known]), np.concatenate([mask for _, _, mask in known])
        of_case = np.concatenate([np.full(len(one), i) for i, one, _ in known])
        instance_auc = _auc(pooled, positive, of_case, counts)
        own = np.full(len(cases), np.nan)
        for i, one, mask in known:
            value = instance_metrics([one], [mask.astype(np.int8)], threshold=threshold)["dice"]
            own[i] = np.nan if value is None else value
        dice = _weighted_mean(own, counts)
    return {
        ("bag", "accuracy"): _weighted_mean((table.argmax(axis=1) == truth).astype(float), counts),
        ("bag", "auc"): _mean_of_defined(areas),
        ("instance", "auc"): instance_auc,
        ("instance", "dice"): dice,
    }


def _weighted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    there = np.isfinite(values)
    weights = counts[:, there]
    with np.errstate(invalid="ignore"):
        means: np.ndarray = weights @ values[there] / weights.sum(axis=1)
        return means


def _mean_of_defined(areas: np.ndarray) -> np.ndarray:
    """The mean over the classes that a resample holds besides another, as in :func:`comel.scoring.metrics.bag_metrics`."""
    there = np.isfinite(areas)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(there, areas, 0).sum(axis=0) / there.sum(axis=0)
        return means


def _auc(scores: np.ndarray, positive: np.ndarray, of_case: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The AUC of pooled values in every resample of the cases they belong to.

    The share of pairs in the right order is a sum over pairs of cases, w_a w_b U_ab, so only U is counted, once.
    """
    steps = np.unique(scores)
    if len(steps) > _BINS:
        steps = steps[np.linspace(0, len(steps) - 1, _BINS).astype(int)]
    place = of_case * len(steps) + np.searchsorted(steps, scores)
    cases, size = counts.shape[1], counts.shape[1] * len(steps)
    high, low = (np.bincount(place[mask], minlength=size).reshape(cases, -1).astype(float) for mask in (positive, ~positive))
    pairs = high @ (low.cumsum(axis=1) - low / 2).T
    with np.errstate(invalid="ignore"):
        areas: np.ndarray = ((counts @ pairs) * counts).sum(axis=1) / ((counts @ high.sum(axis=1)) * (counts @ low.sum(axis=1)))
        return areas
