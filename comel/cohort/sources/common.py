"""What the cohorts share: finding files, reading tables, and writing a manifest that is checked before it has its name."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comel.base.files import atomic_path
from comel.cohort.manifest import OPTIONAL, REQUIRED, Manifest, ManifestRow, read_manifest, read_table_text
from comel.errors import ManifestError

__all__ = [
    "MASK_SUFFIXES",
    "SLIDE_SUFFIXES",
    "VECTOR_SUFFIXES",
    "Cohort",
    "check_labels",
    "find_files",
    "find_slides",
    "read_table",
    "slide_row",
    "stem_of",
    "summary",
    "write_manifest",
]

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu", ".bif", ".czi", ".dcm"}
)
MASK_SUFFIXES = (".png", ".tif", ".tiff")
VECTOR_SUFFIXES = (".xml", ".geojson")
_MAX_TABLE_BYTES = 256 << 20


@dataclass
class Cohort:
    """The slides of a cohort, and what its sources do not agree on.

    Attributes:
        rows: one a slide; paths are absolute.
        warnings: one line each.
    """

    rows: list[ManifestRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def slide_row(path: Path, label: str, task: str, **known: Any) -> ManifestRow:
    """A slide's row, named after its file; rows get their numbers when they are written."""
    return ManifestRow(row=0, slide_id=stem_of(path), path=path, label=label, task=task, **known)


def find_files(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """All files below a folder with one of these suffixes, any case, in order of path; hidden ones are left out.

    Links to folders are followed, each folder once.

    Raises:
        ManifestError: there is no such folder.
    """
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder", "give the folder of the download")
    wanted, seen, found = set(suffixes), set(), []
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(folder, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in wanted]
    return sorted(found)


def find_slides(root: Path) -> list[Path]:
    """All slides below a folder, in order of path: files with one of :data:`SLIDE_SUFFIXES`, and folders of DICOM files.

    Raises:
        ManifestError: there is no such folder.
    """
    files = find_files(root, SLIDE_SUFFIXES)
    return sorted({path.parent if path.suffix.lower() == ".dcm" else path for path in files})


def stem_of(path: Path) -> str:
    """A slide's name: a file's without its suffix, a folder's as it is."""
    return path.name if path.is_dir() else path.name[: len(path.name) - len(path.suffix)]


def read_table(path: Path) -> list[list[str]]:
    """The cells of a text table, commas or tabs; lines that are blank or start with ``#`` are left out.

    Raises:
        ManifestError: it cannot be read, or holds nothing.
    """
    text = read_table_text(path, _MAX_TABLE_BYTES)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ManifestError(f"{path}: the table is empty", "give a table with a line for each slide or patient")
    try:
        read = csv.reader(io.StringIO("\n".join(lines)), delimiter="\t" if "\t" in lines[0] else ",", strict=True)
        return [[cell.strip() for cell in cells] for cells in read]
    except csv.Error as error:
        raise ManifestError(f"{path}: not a table ({error})", "check the quotes") from None


def write_manifest(
    cohort: Cohort, root: Path, out: Path, *, folds: int | None = None, seed: int = 0, force: bool = False
) -> tuple[Manifest, Path]:
    """Write a cohort's manifest; it is read back and checked before it gets its name.

    Args:
        cohort: what to write.
        root: the cohort's folder.
        out: the CSV to write.
        folds: also deal the slides out to this many folds, see :func:`comel.cohort.splits.assign_folds`.
        seed: of the folds.
        force: replace a file that is there.

    Returns:
        The manifest as it is read back, and the folder that its paths start from: the manifest's own if the cohort lies
        in it, else ``root``.

    Raises:
        ManifestError: there are no slides, two have the same name, ``out`` exists, or a row cannot be used.
        ComelError: the folds cannot be dealt.
    """
    if not cohort.rows:
        raise ManifestError(f"{root}: no slide is left for the manifest", cohort.warnings[0] if cohort.warnings else "")
    if out.exists() and not force:
        raise ManifestError(f"{out} exists", "give another --out, or --force to replace it")
    paths: dict[str, Path] = {}
    for row in cohort.rows:
        if paths.setdefault(row.slide_id, row.path) != row.path:
            raise ManifestError(f"{paths[row.slide_id]} and {row.path} have the same name", "rename one: its bag has this name")
    rows = cohort.rows
    if folds is not None:
        from comel.cohort.splits import assign_folds

        fold_of = assign_folds(rows, folds=folds, seed=seed)
        rows = [replace(row, fold=fold_of[row.slide_id]) for row in rows]
    root, parent = _absolute(root), _absolute(out).parent
    start = parent if root.is_relative_to(parent) else root
    with atomic_path(out) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(REQUIRED + OPTIONAL)
            writer.writerows(_cells(row, start) for row in rows)
        try:
            read_manifest(temporary, root=start)
        except ManifestError as error:
            raise ManifestError(error.what.replace(temporary.name, out.name), error.remedy) from None
    return read_manifest(out, root=start), start


def summary(manifest: Manifest) -> dict[str, dict[str, dict[str, int]]]:
    """How many slides each task has by label and split (``-`` where the split is not stated)."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in manifest.rows:
        counts[row.task][row.label][row.split or "-"] += 1
    return {task: {label: dict(splits) for label, splits in labels.items()} for task, labels in counts.items()}


def check_labels(rows: Sequence[ManifestRow]) -> Iterator[str]:
    """A warning for each task that has one label only."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.task].add(row.label)
    for task, found in labels.items():
        if len(found) == 1:
            yield f"task '{task}' has the label '{next(iter(found))}' only; training needs two labels a task"


def _cells(row: ManifestRow, start: Path) -> list[str]:
    values = [getattr(row, name) for name in REQUIRED + OPTIONAL]
    return [_relative(value, start) if isinstance(value, Path) else "" if value is None else str(value) for value in values]


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(_absolute(path), start)).as_posix()


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
