"""R matrices: R[t][i] is the score on task i after training stage t, one matrix for each kind, mode and score.

In a domain-incremental run, whose one head can judge a task before it is trained, there are values above the diagonal and a
row of chance: the scores of the untrained model. Both serve forward transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comel.scoring.metrics import continual_metrics

__all__ = ["Matrices", "append_row", "chance_row", "continual", "keep_rows", "new_matrices"]

Matrices = dict[str, dict[str, dict[str, list[list[float | None]]]]]
Chance = dict[str, dict[str, dict[str, list[float | None]]]]


def new_matrices() -> Matrices:
    """Empty R matrices: kind (bag, instance, patient) -> mode -> score -> rows."""
    return {"bag": {}, "instance": {}}


def keep_rows(matrices: Matrices, count: int) -> None:
    """Drop the rows from ``count`` on."""
    for modes in matrices.values():
        for names in modes.values():
            for rows in names.values():
                del rows[count:]


def append_row(matrices: Matrices, tasks: Sequence[str], scored: Mapping[str, Any]) -> None:
    """Append a row to every matrix from ``{task: score_task(...)}``; a task that was not scored gets None.

    Earlier rows are widened with None for tasks that are new, and a score that is new gets earlier rows of None.
    """
    before = max((len(rows) for modes in matrices.values() for names in modes.values() for rows in names.values()), default=0)
    for entry in scored.values():
        for mode, kinds in entry.items():
            for kind, values in kinds.items():
                for name in values:
                    rows = matrices.setdefault(kind, {}).setdefault(mode, {}).setdefault(name, [])
                    rows.extend([] for _ in range(before - len(rows)))
    for kind, modes in matrices.items():
        for mode, names in modes.items():
            for name, rows in names.items():
                rows.append([_value(scored, task, mode, kind, name) for task in tasks])
                for row in rows:
                    row.extend([None] * (len(tasks) - len(row)))


def chance_row(tasks: Sequence[str], scored: Mapping[str, Any]) -> Chance:
    """The scores of an untrained model, laid out as one row of the matrices."""
    matrices: Matrices = {}
    append_row(matrices, tasks, scored)
    return {
        kind: {mode: {name: rows[0] for name, rows in names.items()} for mode, names in modes.items()}
        for kind, modes in matrices.items()
    }


def continual(
    matrices: Matrices, learned: int | None = None, chance: Chance | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Average, transfer and forgetting of every matrix; None where the matrix is neither (T, T) nor (1, T).

    Args:
        matrices: as :func:`append_row` makes them.
        learned: the number of tasks learned so far; columns of later ones are not looked at. Default all.
        chance: from :func:`chance_row`.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, modes in matrices.items():
        for mode, names in modes.items():
            for name, rows in names.items():
                square = [row[:learned] for row in rows]
                start = ((chance or {}).get(kind, {}).get(mode, {}).get(name) or [])[:learned]
                start = start + [None] * (len(square[-1]) - len(start))
                fits = len(square) in (1, len(square[-1]))
                summary.setdefault(kind, {}).setdefault(mode, {})[name] = (
                    continual_metrics(square, chance=start) if fits else None
                )
    return summary


def _value(scored: Mapping[str, Any], task: str, mode: str, kind: str, name: str) -> float | None:
    value: float | None = scored.get(task, {}).get(mode, {}).get(kind, {}).get(name)
    return value
