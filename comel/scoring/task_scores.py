"""Scores of one task's cases: of bags, of instances and, if patients have several cases, of patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from comel.base.units import Mode
from comel.cohort.classes import ClassSpace, Head
from comel.runs.metrics import ScoreRow
from comel.scoring.case_results import CaseResult
from comel.scoring.froc import froc
from comel.scoring.metrics import Scores, bag_metrics, calibration_error, instance_metrics
from comel.scoring.patients import patient_probabilities

__all__ = ["View", "patient_level", "score_task", "views"]


@dataclass(frozen=True)
class View:
    """Which of a result's numbers are scored: with the task unknown, or with the task given."""

    probabilities: Callable[[CaseResult], np.ndarray]
    raw: Callable[[CaseResult], np.ndarray | None]
    instances: Callable[[CaseResult], np.ndarray]


_FREE = View(lambda r: r.probabilities, lambda r: r.raw_probabilities, lambda r: r.scores)
_GIVEN = View(lambda r: r.within, lambda r: r.raw_within, lambda r: r.scores_given)


def views(mode: Mode) -> dict[Mode, View]:
    """The settings scored in a run of a mode: a class-incremental run also has task-incremental answers."""
    return {Mode.DOMAIN: _FREE} if mode == Mode.DOMAIN else {Mode.CLASS: _FREE, Mode.TASK: _GIVEN}


def score_task(task: str, results: Sequence[CaseResult], threshold: float, mode: Mode, *, stage: int = 0) -> list[ScoreRow]:
    """Scores of one task's cases, for each mode (:func:`views`) by kind.

    ``bag``
        :func:`comel.scoring.metrics.bag_metrics`, and ``ece_uncalibrated``: the same without the heads' temperatures.
    ``instance``
        :func:`comel.scoring.metrics.instance_metrics` of cases with instance labels, and ``froc``: mean sensitivity to lesions
        over the six rates of false alarms (:func:`comel.scoring.froc.froc`), None unless all these cases have coordinates.
    ``patient``
        the bag metrics of patients (:func:`patient_level`); only if some patient has more than one case.

    Args:
        task: the task's name.
        results: its cases' results.
        threshold: its instance threshold.
        mode: the run's mode.
        stage: the stage after which the model was scored.
    """
    return [
        ScoreRow(stage, task, kind, asked, name, value)
        for asked, view in views(mode).items()
        for kind, scores in _scores(results, view, threshold).items()
        for name, value in scores.items()
    ]


def _scores(results: Sequence[CaseResult], view: View, threshold: float) -> dict[str, Scores]:
    columns = np.array([result.column for result in results], dtype=np.int64)
    bag = bag_metrics(_table([view.probabilities(result) for result in results]), columns)
    raw = [table for table in map(view.raw, results) if table is not None]
    bag["ece_uncalibrated"] = calibration_error(_table(raw), columns) if len(raw) == len(results) else None
    labelled = [(view.instances(r), r.labels, r.coords) for r in results if r.labels is not None]
    scores, labels = [entry[0] for entry in labelled], [entry[1] for entry in labelled]
    instance = instance_metrics(scores, labels, threshold=threshold)
    coords = [entry[2] for entry in labelled if entry[2] is not None]
    found = froc(scores, labels, coords, threshold=threshold) if len(coords) == len(labelled) else None
    instance["froc"] = float(np.mean(list(found.values()))) if found else None
    kinds = {"bag": bag, "instance": instance}
    if len({result.case.patient for result in results}) < len(results):
        kinds["patient"] = bag_metrics(*patient_level(results, view))
    return kinds


def patient_level(results: Sequence[CaseResult], view: View) -> tuple[np.ndarray, np.ndarray]:
    """Patients' probabilities and labels from their cases'.

    The label is that of the cases if they agree, and the finding if some cases show one finding and the others are
    negative; the probabilities follow the same rule (:mod:`comel.scoring.patients`). A patient with two different findings
    has no single label and is left out.

    Returns:
        (patients, C) probabilities and (patients,) columns, in order of first appearance.
    """
    by_patient: dict[str, list[CaseResult]] = {}
    for result in results:
        by_patient.setdefault(result.case.patient, []).append(result)
    classes = _classes(results)
    tables, columns = [], []
    for cases in by_patient.values():
        found = {case.column for case in cases if case.positive} or {case.column for case in cases}
        if len(found) == 1:
            tables.append(patient_probabilities(np.array([view.probabilities(case) for case in cases]), classes))
            columns.append(found.pop())
    return _table(tables), np.array(columns, dtype=np.int64)


def _classes(results: Sequence[CaseResult]) -> ClassSpace:
    """The columns' classes; if the results lack them, one head whose negative label is that of the negative cases."""
    for result in results:
        if result.classes is not None:
            return result.classes
    negative = {str(result.column) for result in results if not result.positive}
    labels = tuple(map(str, range(len(results[0].probabilities))))
    return ClassSpace.of([Head("all", labels, negative.pop() if len(negative) == 1 else None)])


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(n, C), also without rows."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if len(rows) else 0)
