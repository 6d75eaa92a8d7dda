"""Predictions of labelled cases as a CSV: one row a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from comel.classes import ClassSpace
from comel.data import Case
from comel.errors import RunError
from comel.files import atomic_path
from comel.scores import CaseResult

__all__ = ["read_results", "write_results"]

_ANY, _GIVEN = "p:", "given:"


def write_results(path: Path, results: Sequence[CaseResult], classes: Sequence[str], **columns: Sequence[object]) -> None:
    """Write each case's label, the prediction with the task unknown and with the task given, its distance from all that was
    learned, and all probabilities.

    Args:
        path: the CSV. ``p:<class>`` holds the probability over all classes, ``given:<class>`` the one within the case's task.
        results: the cases.
        classes: names of the columns of the probabilities.
        columns: further columns by name, a value a case.
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


def read_results(path: Path, classes: ClassSpace, heads: Mapping[str, int]) -> list[CaseResult]:
    """The inverse of :func:`write_results`, as far as bags go: instances are not in the table.

    Args:
        path: the CSV.
        classes: of the model that made it.
        heads: the number of each task's head.

    Raises:
        RunError: the file is missing, or is not such a table.
    """
    import pandas

    try:
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        return [_result(row, classes, heads[row["task"]]) for row in table.to_dict("records")]
    except pandas.errors.EmptyDataError:
        return []
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: no table of these cases ({type(error).__name__})", "restore the run from a copy") from None


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
    )
