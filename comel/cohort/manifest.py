"""The cohort as a CSV: one row per slide, with its label, its task and its patient.

Required columns: ``slide_id, path, label, task``. Optional: ``case_id, patient_id, site, split`` (train, val or test),
``fold`` (0, 1, ...), ``annotation`` (a file) and ``mpp`` (micrometres per pixel of level 0, if the slide's own is missing
or wrong). Other columns are ignored and named in :attr:`Manifest.ignored`. Every cell is read as text first, so that ``007``
stays ``007``; an empty cell, or a word such as NA or #N/A (:data:`comel.cohort.table_text.MISSING_WORDS`), means that nothing
is known.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.base.names import existing, without_invisible
from comel.cohort.table_text import is_missing, lines_of, read_content
from comel.errors import ManifestError

if TYPE_CHECKING:
    import pandas

__all__ = ["Manifest", "ManifestRow", "read_cells", "read_manifest"]

REQUIRED = ("slide_id", "path", "label", "task")
OPTIONAL = ("case_id", "patient_id", "site", "split", "fold", "annotation", "mpp")
SPLITS = ("train", "val", "test")
MAX_MANIFEST_BYTES = 256 << 20
_MAX_NAME_BYTES = 200
_ERRORS_SHOWN = 3
_TWO_PATIENTS = "patients are compared by name: if they are two, such as patient 1 of two hospitals, give them two patient_ids"

_Problem = tuple[int, str, str]  # row, column, what is wrong


@dataclass(frozen=True)
class ManifestRow:
    """One slide of a cohort.

    Attributes:
        row: its row in the CSV, counted as a spreadsheet does: the header is row 1.
        slide_id: the slide's unique name; its bag is ``<slide_id>.h5``.
        path: the slide file, absolute; it need not exist.
        label: the label's name; a class is (task, label).
        task: the task's name; its adapter's folder has this name.
        case_id: the case; the slides of a case are one bag. None if not stated.
        patient_id: None if not stated.
        site: the hospital or laboratory, or None.
        split: train, val or test, or None.
        fold: the cross-validation fold in which this slide is tested, or None.
        annotation: the annotation file, absolute, or None.
        mpp: micrometres per pixel of level 0, overriding the slide's own; None to use the slide's own.
    """

    row: int
    slide_id: str
    path: Path
    label: str
    task: str
    case_id: str | None = None
    patient_id: str | None = None
    site: str | None = None
    split: str | None = None
    fold: int | None = None
    annotation: Path | None = None
    mpp: float | None = None

    @property
    def case(self) -> str:
        """The unit of one bag: the case, otherwise the slide."""
        return self.case_id or self.slide_id

    @property
    def patient(self) -> str:
        """The unit that must not be in two splits: the patient, otherwise the case."""
        return self.patient_id or self.case


@dataclass(frozen=True)
class Manifest:
    """A cohort that was read and checked.

    Attributes:
        path: the CSV.
        rows: its slides, in the file's order (by task first, if tasks were requested).
        digest: SHA-256 (hex) of the CSV's bytes, as they were read.
        ignored: the columns that are not used, so that a misspelt one can be noticed.
    """

    path: Path
    rows: list[ManifestRow]
    digest: str
    ignored: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order of first appearance."""
        return list(dict.fromkeys(row.task for row in self.rows))

    def labels(self, task: str) -> list[str]:
        """The labels of a task, in order of first appearance."""
        return list(dict.fromkeys(row.label for row in self.rows if row.task == task))

    def select(self, *, task: str | None = None, split: str | None = None) -> list[ManifestRow]:
        """The slides of a task, of a split, or of both."""
        return [row for row in self.rows if task in (None, row.task) and split in (None, row.split)]

    def of_tasks(self, tasks: Sequence[str] | None) -> Manifest:
        """Only the slides of these tasks, in this order; None keeps everything.

        Raises:
            ManifestError: a task has no slide.
        """
        if tasks is None:
            return self
        for task in tasks:
            if task not in self.tasks:
                raise ManifestError(f"{self.path.name} has no slide of task {task!r}", f"its tasks are {', '.join(self.tasks)}")
        return replace(self, rows=[row for task in dict.fromkeys(tasks) for row in self.rows if row.task == task])


def read_manifest(
    path: Path, *, root: Path | None = None, tasks: Sequence[str] | None = None, names: Collection[str] | None = ()
) -> Manifest:
    """Read a cohort and check every row of it.

    Args:
        path: the CSV; its encoding and separator are detected (:mod:`comel.cohort.table_text`).
        root: the folder that relative paths start from and that no path may leave; the manifest's own folder by default.
            Paths are compared as written, so a link inside the folder may point anywhere.
        tasks: keep the slides of these tasks only, in this order.
        names: labels and tasks that the user has named, which are names even where they are written like a missing value;
            None if labels and tasks are not used: every word is a name.

    Raises:
        ManifestError: the file cannot be read or lacks a column, or rows cannot be used: the first few are named, the rest
            are counted. Slides that are not on disk are not an error here: training needs only bags.
    """
    path = Path(path)
    content = read_content(path, MAX_MANIFEST_BYTES)
    frame, ignored, words = _cells(path, content, names)
    folder = Path(os.path.normpath(Path(root if root is not None else path.parent).absolute()))
    problems = sorted([*_cell_problems(frame, folder, words), *_row_problems(frame)])
    if problems:
        shown = "; ".join(f"row {row} column {column}: {what}" for row, column, what in problems[:_ERRORS_SHOWN])
        more = f"; {len(problems) - _ERRORS_SHOWN} more" if len(problems) > _ERRORS_SHOWN else ""
        alike = any(what.startswith("patient ") for _, _, what in problems[:_ERRORS_SHOWN])
        raise ManifestError(f"{path.name} {shown}{more}", _TWO_PATIENTS if alike else "")
    rows = [_row(int(number), cells, folder) for number, cells in zip(frame.index, frame.to_dict("records"), strict=True)]
    return Manifest(path, rows, hashlib.sha256(content).hexdigest(), ignored).of_tasks(tasks)


def read_cells(path: Path) -> dict[str, list[str]]:
    """The cells of every named column, without missing values. No cell is checked.

    Raises:
        ManifestError: the file is not a table.
    """
    header, records = _records(path, read_content(path, MAX_MANIFEST_BYTES))
    columns: dict[str, list[str]] = {name: [] for name in header if name}
    for _, cells in records:
        for name, cell in zip(header, cells, strict=False):
            if name and not is_missing(cell):
                columns[name].append(cell)
    return columns


def _cells(
    path: Path, content: bytes, names: Collection[str] | None
) -> tuple[pandas.DataFrame, tuple[str, ...], dict[tuple[int, str], str]]:
    """All known columns as text, None for missing values, indexed by the spreadsheet's row; the unknown columns; and the
    words that mean "missing", by row and column."""
    import pandas

    header, records = _records(path, content)
    again = [number for number, cells in records if [without_invisible(cell).strip() for cell in cells] == header]
    if again:
        remedy = "take it out, or give the tables one by one"
        raise ManifestError(f"{path.name} row {again[0]} is the header again, as where two tables were put together", remedy)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ManifestError(f"{path.name} has the column {twice[0]} twice", "keep one of them")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        found = ", ".join(header)[:200]
        raise ManifestError(f"{path.name} has no column {', '.join(missing)} (found: {found})", _remedy(header, missing))
    if not records:
        raise ManifestError(f"{path.name} has a header but no rows", "add one row per slide")
    long = [number for number, cells in records if any(cells[len(header) :])]
    if long:
        more = f" ({len(long) - 1} more rows like it)" if len(long) > 1 else ""
        raise ManifestError(
            f"{path.name} row {long[0]} has more cells than the header{more}",
            "put a cell that holds the separator, such as a comma, in quotes",
        )
    known = REQUIRED + OPTIONAL
    named = [(number, dict(zip(header, cells, strict=False))) for number, cells in records]
    words = {
        (number, name): cells[name]
        for number, cells in named
        for name in known
        if cells.get(name)
        and is_missing(cells[name])
        and not (name in ("label", "task") and (names is None or cells[name] in names))
    }
    data = {name: [None if (number, name) in words else cells.get(name) or None for number, cells in named] for name in known}
    frame = pandas.DataFrame(data, index=[number for number, _ in records], dtype=object)
    return frame, tuple(name for name in header if name and name not in known), words


def _remedy(header: Sequence[str], missing: Sequence[str]) -> str:
    """What to do about a header that lacks columns."""
    if len(header) == 1:
        return "separate columns by commas"
    written = {name.casefold().replace(" ", "_"): name for name in header}
    for name in missing:
        near = difflib.get_close_matches(name, written, n=1, cutoff=0.75)
        if near:
            return f"call the column '{written[near[0]]}' '{name}'"
    return "add it, or write the manifest by a command: comel manifest --help"


def _records(path: Path, content: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the non-blank rows with their numbers; cells stripped of white space."""
    lines = lines_of(path, content, known=REQUIRED + OPTIONAL)
    if not lines:
        raise ManifestError(f"{path}: the file is empty", f"its first line names the columns: {', '.join(REQUIRED)}")
    return [without_invisible(name).strip() for name in lines[0][1]], lines[1:]


def _cell_problems(frame: pandas.DataFrame, folder: Path, words: Mapping[tuple[int, str], str]) -> list[_Problem]:
    """Problems of single cells."""
    import pandera.pandas as pa

    def check(test: Any, message: str) -> Any:
        return pa.Check(test, element_wise=True, error=message)

    text = check(lambda cell: not _has_control_characters(cell), "holds control characters")
    name = [
        text,
        check(lambda cell: not any(sign in cell for sign in "/\\"), "holds a path separator (it becomes a file name)"),
        check(lambda cell: not cell.startswith("."), "starts with a dot (it becomes a file name)"),
        check(lambda cell: len(cell.encode()) <= _MAX_NAME_BYTES, f"is over {_MAX_NAME_BYTES} bytes (it becomes a file name)"),
    ]
    file = [text, check(lambda cell: _inside(folder, cell), f"leaves the folder {folder} (give the slides' folder as --root)")]
    checks = {
        "slide_id": name,
        "task": name,
        "path": file,
        "annotation": file,
        "split": [check(lambda cell: cell in SPLITS, f"is not one of {', '.join(SPLITS)}")],
        "fold": [check(lambda cell: _fold(cell) is not None, "is not a whole number from 0")],
        "mpp": [check(lambda cell: _mpp(cell) is not None, "is not a number of micrometres above 0 (such as 0.25)")],
    }
    columns = {column: pa.Column(object, checks.get(column, [text]), nullable=column in OPTIONAL) for column in frame.columns}
    try:
        pa.DataFrameSchema(columns).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        return [
            (row, column, _sentence(case["failure_case"], str(case["check"]), words.get((row, column))))
            for case in error.failure_cases.to_dict("records")
            for row, column in [(int(case["index"]), str(case["column"]))]
        ]
    return []


def _row_problems(frame: pandas.DataFrame) -> list[_Problem]:
    """Problems between rows: names used twice, cases with two labels, patients in two splits."""
    case = frame["case_id"].fillna(frame["slide_id"])
    patient = frame["patient_id"].fillna(case)
    problems: list[_Problem] = []
    first: dict[str, int] = {}
    for row, slide_id in zip(frame.index, frame["slide_id"], strict=True):
        if slide_id is not None and first.setdefault(slide_id, int(row)) != row:
            problems.append((int(row), "slide_id", f"{_short(slide_id)} is already in row {first[slide_id]}"))
    for who, keys, column, values in (
        ("case", case, "label", frame["label"]),
        ("case", case, "task", frame["task"]),
        ("case", case, "patient_id", patient),
        ("patient", patient, "split", frame["split"]),
        ("patient", patient, "fold", [cell and _fold(cell) for cell in frame["fold"]]),
    ):
        seen: dict[str, tuple[int, Any]] = {}
        for row, key, value in zip(frame.index, keys, values, strict=True):
            if not isinstance(key, str) or value is None or value != value:
                continue
            row_before, value_before = seen.setdefault(key, (int(row), value))
            if value != value_before:
                said = f"is {_short(value)} here and {_short(value_before)} in row {row_before}"
                problems.append((int(row), column, f"{who} {_short(key)} {said}"))
    return problems


def _row(number: int, cells: Mapping[Any, Any], folder: Path) -> ManifestRow:
    known = {name: value for name, value in cells.items() if value is not None}
    for name in ("path", "annotation"):
        if name in known:
            known[name] = existing(_absolute(folder, known[name]))
    if "fold" in known:
        known["fold"] = _fold(known["fold"])
    if "mpp" in known:
        known["mpp"] = _mpp(known["mpp"])
    return ManifestRow(row=number, **known)


def _absolute(folder: Path, cell: str) -> Path:
    return Path(os.path.normpath(folder / cell))


def _inside(folder: Path, cell: str) -> bool:
    return _absolute(folder, cell).is_relative_to(folder)


def _fold(cell: str) -> int | None:
    """A fold's number; also ``1.0``, as data frames write a column of integers with gaps."""
    return int(cell.split(".")[0]) if re.fullmatch(r"[0-9]{1,4}(\.0+)?", cell) else None


def _mpp(cell: str) -> float | None:
    """A number; also ``0,25``, as spreadsheets in many countries write it."""
    try:
        value = float(re.sub(r"^(\d*),(\d+)$", r"\1.\2", cell))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _has_control_characters(cell: Iterable[str]) -> bool:
    return any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in cell)


def _sentence(cell: Any, check: str, word: str | None) -> str:
    if check != "not_nullable":
        return f"{_short(cell)} {check}"
    if word is None:
        return "is empty"
    return f"is empty ({_short(word)} means a missing value: fill it in, or use another word if it is a name)"


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 80 else f"{text[:77]}..."
