"""``metrics.json``: what each stage of a run cost, and one table of all scores.

Format 2 holds a row for each score (:class:`ScoreRow`). Format 1, of comel 0.1.0, held a matrix for each kind, mode and score
in nested objects; it is read as the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from comel.base.files import read_json, write_text
from comel.base.formats import check_format
from comel.base.text import first_line
from comel.base.units import Mode
from comel.base.version import comel_version
from comel.errors import RunError

__all__ = ["CHANCE", "RunMetrics", "ScoreRow", "StageAccount", "read_metrics", "write_metrics"]

CHANCE = -1
"""The stage of the untrained model."""

_FORMAT = 2
_Number = Annotated[float, Field(allow_inf_nan=False)]


class ScoreRow(NamedTuple):
    """A score of test cases.

    Attributes:
        stage: the training stage after which the model was scored, from 0; ``CHANCE`` for the untrained model.
        task: the task whose test cases were scored; None for the mean over all tasks learned.
        kind: what was scored: bag, instance or patient.
        mode: what the model knew: class-, task- or domain-incremental.
        name: the score's name, such as accuracy.
        value: None if the score is not defined.
        low, high: the ends of its 95 % interval; None without one.
    """

    stage: int
    task: str | None
    kind: str
    mode: Mode
    name: str
    value: _Number | None
    low: _Number | None = None
    high: _Number | None = None

    @property
    def key(self) -> tuple[str, Mode, str]:
        """Kind, mode and name: which of a run's R matrices the row belongs to."""
        return self.kind, self.mode, self.name

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class StageAccount(BaseModel):
    """A stage: the version it produced, the tasks it learned, and what it cost."""

    version: int
    learned: list[str] = []
    seconds: _Number | None = None
    trained_parameters: int | None = None
    old_data_bytes: int | None = None


class RunMetrics(BaseModel):
    """The content of ``metrics.json``; empty before a run's first stage has ended.

    Attributes:
        mode, strategy: the run's mode and strategy.
        finished: whether all stages are done.
        tasks: in the order they were learned, then those of a domain-incremental run that are yet to come.
        stages: the stages done so far.
        thresholds, temperatures: one per task, chosen on its validation cases.
        scores: the table of scores.
    """

    mode: Mode | None = None
    strategy: str = ""
    finished: bool = False
    tasks: list[str] = []
    stages: list[StageAccount] = []
    thresholds: dict[str, _Number] = {}
    temperatures: dict[str, _Number] = {}
    scores: list[ScoreRow] = []

    @model_validator(mode="after")
    def _rows_have_a_place(self) -> RunMetrics:
        for number, row in enumerate(self.scores):
            if not CHANCE <= row.stage < len(self.stages) or not (row.task is None or row.task in self.tasks):
                raise ValueError(f"row {number} of scores names a stage or task that the run does not have")
        return self

    @property
    def learned_at(self) -> dict[str, int]:
        """The stage in which each task was learned."""
        return {task: number for number, stage in enumerate(self.stages) for task in stage.learned}


def read_metrics(path: Path) -> RunMetrics:
    """Read ``metrics.json`` of this format or an older one; empty if there is no such file.

    Raises:
        RunError: the file is damaged, or was written by a newer comel.
    """
    if not path.exists():
        return RunMetrics()
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError("not the scores of a run")
        stated = content.get("format", 1)
        check_format(path, stated, _FORMAT, content.get("comel_version"), RunError)
        if stated == 1:
            content = _from_format_1(content)
        elif content["columns"] != list(ScoreRow._fields):
            raise ValueError(f"the columns are not {', '.join(ScoreRow._fields)}")
        return RunMetrics.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        said = [".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")]
        raise RunError.damaged(path, ": ".join(filter(None, said))) from None
    except (AttributeError, KeyError, TypeError):
        raise RunError.damaged(path, "not laid out as comel writes it") from None
    except (OSError, ValueError) as error:
        raise RunError.damaged(path, first_line(error)) from None


def write_metrics(path: Path, metrics: RunMetrics) -> None:
    """Write ``metrics.json``, one row of the table per line."""
    about = {"format": _FORMAT, "comel_version": comel_version()}
    values = {**about, **metrics.model_dump(mode="json", exclude={"scores"}), "columns": ScoreRow._fields}
    head = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    rows = ",\n    ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in metrics.scores)
    write_text(path, f'{head},\n  "scores": [\n    {rows}\n  ]\n}}\n')


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same content in format 2. ``continual`` follows from the matrices, except the average that has an interval."""
    about = RunMetrics.model_validate({key: value for key, value in content.items() if key != "scores"})
    tasks, stages = about.tasks, about.stages
    intervals, averages = dict(_leaves(content.get("intervals"))), dict(_leaves(content.get("continual")))
    rows: list[tuple[Any, ...]] = []
    for place, values in _leaves(content.get("chance")):
        rows += [(CHANCE, task, *place, value) for task, value in zip(tasks, values, strict=False)]
    for place, matrix in _leaves(content.get("matrices")):
        if len(matrix) != len(stages) or any(len(values) != len(tasks) for values in matrix):
            raise ValueError(f"the matrix of {' '.join(place)} does not have {len(stages)} rows of {len(tasks)}")
        for stage, values in enumerate(matrix):
            rows += [(stage, task, *place, value) for task, value in zip(tasks, values, strict=True)]
    last = len(stages) - 1
    ends = {(last, task, *place): found for place, entry in intervals.items() for task, found in entry["tasks"].items()}
    rows = [(*row, *(ends.get(row[:-1]) or (None, None))) for row in rows]
    for place, entry in intervals.items():
        average = (averages.get(place) or {}).get("final_average")
        rows.append((last, None, *place, average, *(entry["mean"] or (None, None))))
    return {**content, "scores": rows}


def _leaves(nest: Mapping[str, Any] | None) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Kind, mode and score, and format 1's entry for them."""
    for kind, modes in (nest or {}).items():
        for mode, scores in modes.items():
            for name, entry in scores.items():
                yield (kind, mode.replace("_", "-"), name), entry
