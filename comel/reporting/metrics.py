"""``metrics.json``, of any version: what an older run does not record is empty."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from comel.base.files import read_json
from comel.errors import RunError

__all__ = ["Metrics", "damaged", "number", "read_metrics"]


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


_Cell = Annotated[float | None, BeforeValidator(number)]


class Metrics(BaseModel):
    """``metrics.json``. Matrices and statistics are found under kind (bag, instance, patient), mode and score."""

    model_config = ConfigDict(extra="ignore")

    stages: list[dict[str, Any]] = []
    matrices: dict[str, dict[str, dict[str, list[list[_Cell]]]]] = {}
    mode: str = ""
    strategy: str = ""
    tasks: list[str] = []
    continual: dict[str, dict[str, dict[str, dict[str, _Cell] | None]]] = {}
    intervals: dict[str, Any] | None = None
    chance: dict[str, dict[str, dict[str, list[_Cell]]]] | None = None
    finished: bool = False

    def untrained(self, kind: str, mode: str, score: str) -> list[float | None]:
        """The score of the untrained model on each task; empty where the run has no such row."""
        row = (self.chance or {}).get(kind, {}).get(mode, {}).get(score, [])
        return row if len(row) == len(self.columns) else []

    def rows(self, kind: str, mode: str, score: str) -> list[list[float | None]]:
        """R[t][i], T rows; empty where there is no such score."""
        return self.matrices.get(kind, {}).get(mode, {}).get(score, [])

    def statistic(self, kind: str, mode: str, score: str, name: str) -> float | None:
        """``final_average``, ``forgetting`` and the like of a score."""
        return (self.continual.get(kind, {}).get(mode, {}).get(score) or {}).get(name)

    @property
    def columns(self) -> list[str]:
        """Names of the matrices' columns: the tasks, and any that are scored before they are learned."""
        widths = (len(row) for modes in self.matrices.values() for names in modes.values() for r in names.values() for row in r)
        later = max(widths, default=0) - len(self.tasks)
        return [*self.tasks, *(f"later task {number}" for number in range(1, later + 1))]

    def interval(self, kind: str, mode: str, score: str, *, task: str | None = None) -> tuple[float, float] | None:
        """The ends of the interval of a score's final average, or of its final value on a task, where the run has one."""
        found: Any = self.intervals
        for key in (kind, mode, score, *(("mean",) if task is None else ("tasks", task))):
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, list) or len(found) != 2:
            return None
        low, high = map(number, found)
        return None if low is None or high is None else (low, high)

    def learned_at(self) -> dict[str, int]:
        """The row of the R matrices after which each task is learned."""
        return {str(task): row for row, stage in enumerate(self.stages) for task in stage.get("learned", [])}


def read_metrics(path: Path) -> Metrics:
    """Read ``metrics.json``; without the file, of a run that has learned nothing yet, everything is empty.

    Raises:
        RunError: the file is damaged.
    """
    if not path.exists():
        return Metrics()
    try:
        metrics = Metrics.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(path, f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None
    for kind, modes in metrics.matrices.items():
        for mode, scores in modes.items():
            for score, rows in scores.items():
                if len(rows) != len(metrics.stages) or any(len(row) != len(metrics.columns) for row in rows):
                    wanted = f"{len(metrics.stages)} rows of {len(metrics.columns)}"
                    raise damaged(path, f"the matrix of {kind} {mode} {score} has not {wanted}")
    return metrics


def damaged(path: Path, error: object) -> RunError:
    """The error for a file of a run that cannot be what was written."""
    said = (str(error).splitlines() or ["empty"])[0]
    return RunError(f"{path}: damaged ({said})", "restore the run from a copy")
