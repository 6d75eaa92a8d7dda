"""Scores as one table, and what follows from it over a sequence of tasks.

For each kind, mode and name there is a matrix R, where R[t][i] is the score on task i after training stage t. In a
domain-incremental run, whose one head can judge a task before it is trained, there are values above the diagonal and the scores
of the untrained model. Both serve forward transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from comel.base.units import Mode
from comel.runs.metrics import CHANCE, RunMetrics, ScoreRow
from comel.scoring.metrics import Scores, continual_metrics

__all__ = ["Interval", "Key", "ScoreTable", "nested", "nested_run"]

Key = tuple[str, Mode, str]
"""Kind, mode and name of a score."""

Interval = tuple[float, float] | None


class ScoreTable:
    """The scores of S stages on T tasks, one row each.

    Args:
        rows: the scores.
        tasks: names of the columns of R; default the rows' tasks in order of first appearance.
        stages: S; default one more than the last stage among the rows.
        learned: the number of tasks learned, counted from the first; default all. Later columns serve forward transfer only.
    """

    def __init__(
        self,
        rows: Iterable[ScoreRow],
        tasks: Sequence[str] | None = None,
        *,
        stages: int | None = None,
        learned: int | None = None,
    ) -> None:
        self.rows = list(rows)
        named = (row.task for row in self.rows if row.task is not None)
        self.tasks = list(dict.fromkeys(named)) if tasks is None else list(tasks)
        self.stages = max((row.stage for row in self.rows), default=-1) + 1 if stages is None else stages
        self._learned = learned
        cells: dict[str, dict[Key, dict[tuple[int, str | None], ScoreRow]]] = {}
        for row in self.rows:
            cells.setdefault(row.kind, {}).setdefault(row.key, {})[row.stage, row.task] = row
        self._cells = {key: found for by_key in cells.values() for key, found in by_key.items()}

    @classmethod
    def of_run(cls, metrics: RunMetrics) -> ScoreTable:
        """The table of a run."""
        return cls(metrics.scores, metrics.tasks, stages=len(metrics.stages), learned=len(metrics.learned_at))

    @property
    def keys(self) -> list[Key]:
        """Kind, mode and name of every matrix, kind by kind, in order of first appearance."""
        return list(self._cells)

    @property
    def groups(self) -> list[tuple[str, Mode]]:
        """Kind and mode of the matrices, kind by kind, in order of first appearance."""
        return list(dict.fromkeys((kind, mode) for kind, mode, _ in self._cells))

    def names(self, kind: str, mode: Mode) -> list[str]:
        """The scores of a kind and mode, in order of first appearance."""
        return [name for other, asked, name in self._cells if (other, asked) == (kind, mode)]

    def matrix(self, kind: str, mode: Mode, name: str) -> list[list[float | None]]:
        """R, (S, T); None if a task was not scored or the score is not defined. Without rows if there is no such score."""
        cells = self._cells.get((kind, mode, name))
        return [] if cells is None else [_values(cells, stage, self.tasks) for stage in range(self.stages)]

    def chance(self, kind: str, mode: Mode, name: str) -> list[float | None]:
        """The scores of the untrained model on the first tasks, those known when training began."""
        cells = self._cells.get((kind, mode, name), {})
        known = any(stage == CHANCE for stage, _ in cells)
        return _values(cells, CHANCE, [task for task in self.tasks if task in self._tried]) if known else []

    @cached_property
    def _tried(self) -> set[str | None]:
        """The tasks on which the untrained model was scored."""
        return {row.task for row in self.rows if row.stage == CHANCE}

    @cached_property
    def continual(self) -> dict[Key, Scores | None]:
        """Average, transfer and forgetting of every matrix (:func:`comel.scoring.metrics.continual_metrics`); None if R is
        neither square nor one row."""
        learned = self.tasks[: self._learned]
        summary: dict[Key, Scores | None] = {}
        for key, cells in self._cells.items():
            matrix = [_values(cells, stage, learned) for stage in range(self.stages)]
            fits = bool(learned) and len(matrix) in (1, len(learned))
            summary[key] = continual_metrics(matrix, chance=_values(cells, CHANCE, learned)) if fits else None
        return summary

    def statistic(self, kind: str, mode: Mode, name: str, statistic: str) -> float | None:
        """``final_average``, ``forgetting`` or another entry of :attr:`continual`; None if it is not defined."""
        return (self.continual.get((kind, mode, name)) or {}).get(statistic)

    @cached_property
    def mean(self) -> dict[Key, float]:
        """The mean over tasks of every score after the last stage, over the tasks for which it is defined."""
        found: dict[Key, list[float]] = {}
        for row in self.last_rows:
            if row.task is not None and row.value is not None:
                found.setdefault(row.key, []).append(row.value)
        return {key: float(np.mean(values)) for key, values in found.items()}

    @property
    def last_rows(self) -> list[ScoreRow]:
        """The scores after the last stage."""
        return [row for row in self.rows if row.stage == self.stages - 1]

    def interval(self, kind: str, mode: Mode, name: str, task: str | None = None) -> Interval:
        """The 95 % interval of a score after the last stage: of a task, or of the mean over tasks."""
        row = self._cells.get((kind, mode, name), {}).get((self.stages - 1, task))
        return None if row is None else row.interval

    @property
    def has_intervals(self) -> bool:
        """Whether intervals were computed after the last stage, defined or not."""
        return any(row.task is None for row in self.last_rows)

    def with_intervals(self, ends: Mapping[tuple[Key, str | None], Interval], means: Mapping[Key, float | None]) -> ScoreTable:
        """The table with intervals after the last stage.

        Args:
            ends: the interval of each score and task, and under the task None that of the mean over tasks.
            means: the means over tasks. If one is not defined, neither is its interval.
        """
        last = self.stages - 1
        rows = []
        for row in self.rows:
            low, high = (ends.get((row.key, row.task)) if row.stage == last else None) or (row.low, row.high)
            rows.append(row._replace(low=low, high=high))
        for key, task in ends:
            if task is None:
                mean = means.get(key)
                low, high = (ends[key, None] if mean is not None else None) or (None, None)
                rows.append(ScoreRow(last, None, *key, mean, low, high))
        return ScoreTable(rows, self.tasks, stages=self.stages, learned=self._learned)

    def nested_intervals(self) -> dict[str, Any]:
        """``{kind: {mode: {score: {"mean": (low, high), "tasks": {task: (low, high)}}}}}`` after the last stage."""
        means = [row for row in self.last_rows if row.task is None]
        entries = []
        for mean in means:
            tasks = {row.task: row.interval for row in self.last_rows if row.key == mean.key and row.task is not None}
            entries.append((mean.kind, mean.mode.key, mean.name, {"mean": mean.interval, "tasks": tasks}))
        return nested(entries)

    def nested_scores(self, cases: Mapping[str, int]) -> dict[str, Any]:
        """The scores after the last stage in the form that ``comel evaluate`` returns.

        Args:
            cases: the number of each task's cases.

        Returns:
            ``{"tasks": {task: {"cases", mode: {kind: {score}}}}, "mean": {mode: {kind: {score}}}, "intervals": ...}``
        """
        values = nested(
            (row.task, row.mode.key, row.kind, row.name, row.value) for row in self.last_rows if row.task is not None
        )
        return {
            "tasks": {task: {"cases": count, **values.get(task, {})} for task, count in cases.items()},
            "mean": nested((mode.key, kind, name, value) for (kind, mode, name), value in self.mean.items()),
            "intervals": self.nested_intervals(),
        }


def nested_run(metrics: RunMetrics) -> dict[str, Any]:
    """``metrics.json`` with the scores in nested objects, as ``comel train --json`` prints them.

    Returns:
        The file's content, and ``{kind: {mode: {score: ...}}}`` with R (``matrices``), the scores of the untrained model
        (``chance``; None if there are none) and what follows from both (``continual``). ``intervals`` as in
        :meth:`ScoreTable.nested_intervals`; None if there are none.
    """
    table = ScoreTable.of_run(metrics)
    places = {key: (key[0], key[1].key, key[2]) for key in table.keys}
    return {
        "stages": [stage.model_dump() for stage in metrics.stages],
        "matrices": nested((*place, table.matrix(*key)) for key, place in places.items()),
        "chance": nested((*place, chance) for key, place in places.items() if (chance := table.chance(*key))) or None,
        "mode": metrics.mode,
        "strategy": metrics.strategy,
        "tasks": metrics.tasks,
        "thresholds": metrics.thresholds,
        "temperatures": metrics.temperatures,
        "continual": nested((*place, table.continual[key]) for key, place in places.items()),
        "finished": metrics.finished,
        "intervals": table.nested_intervals() or None,
    }


def nested(entries: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """``{a: {b: value}}`` from ``(a, b, value)``, and so on for more keys, in order of first appearance."""
    nest: dict[str, Any] = {}
    for *keys, last, value in entries:
        place = nest
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = value
    return nest


def _values(cells: Mapping[tuple[int, str | None], ScoreRow], stage: int, tasks: Sequence[str]) -> list[float | None]:
    """A row of a matrix, (T,)."""
    found = (cells.get((stage, task)) for task in tasks)
    return [None if row is None else row.value for row in found]
