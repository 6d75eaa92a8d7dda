"""Shared by all cohorts: finding files, reading tables, and writing a manifest that is checked before it gets its name."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comel.base.files import atomic_path, is_dicom
from comel.cohort.manifest import OPTIONAL, REQUIRED, Manifest, ManifestRow, read_manifest
from comel.cohort.notes import alike
from comel.cohort.table_text import is_missing, lines_of, read_content
from comel.errors import ManifestError

__all__ = [
    "MASK_SUFFIXES",
    "PICTURE_SUFFIXES",
    "SLIDE_SUFFIXES",
    "VECTOR_SUFFIXES",
    "Cohort",
    "check_labels",
    "find_files",
    "find_pictures",
    "find_slides",
    "left_out",
    "read_table",
    "slide_row",
    "stem_of",
    "summary",
    "write_manifest",
]

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu", ".bif", ".czi", ".dcm"}
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".tif", ".tiff")
VECTOR_SUFFIXES = (".xml", ".geojson")
_DOCUMENTS = (
    ".csv",
    ".htm",
    ".html",
    ".json",
    ".log",
    ".md",
    ".parcel",
    ".pdf",
    ".tsv",
    ".txt",
    ".xls",
    ".xlsx",
    ".yaml",
    ".yml",
)
_PICTURES_BEGIN = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MAX_TABLE_BYTES = 256 << 20


@dataclass
class Cohort:
    """The slides of a cohort, and warnings where its sources disagree.

    Attributes:
        rows: one per slide; paths are absolute.
        warnings: one line each.
        left_out: the number of files that are neither slides nor annotations, by suffix.
    """

    rows: list[ManifestRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def slide_row(path: Path, label: str, task: str, **known: Any) -> ManifestRow:
    """A slide's row, named after its file; rows get their numbers when they are written."""
    return ManifestRow(row=0, slide_id=stem_of(path), path=path, label=label, task=task, **known)


def find_files(root: Path, suffixes: Iterable[str] | None = None) -> list[Path]:
    """All files below a folder, in order of path; with ``suffixes``, only files with one of these suffixes, in any letter case.

    Hidden files are left out.

    Links to folders are followed, each folder once.

    Raises:
        ManifestError: there is no such folder.
    """
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder", "give the folder of the download")
    wanted, seen, found = None if suffixes is None else set(suffixes), set(), []
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        visible = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [path for path in visible if wanted is None or path.suffix.lower() in wanted]
    return sorted(found)


def find_slides(root: Path) -> list[Path]:
    """All slides below a folder, in order of path: files with one of :data:`SLIDE_SUFFIXES`, and folders of DICOM files.

    Raises:
        ManifestError: there is no such folder.
    """
    files = find_files(root)
    slides = {path for path in files if path.suffix.lower() in SLIDE_SUFFIXES - {".dcm"}}
    return sorted(slides | {path.parent for path in files if _is_dicom(path)})


def find_pictures(root: Path) -> list[Path]:
    """All PNG and JPEG pictures below a folder, in order of path.

    Raises:
        ManifestError: there is no such folder.
    """
    return [path for path in find_files(root, PICTURE_SUFFIXES) if _begins(path, _PICTURES_BEGIN)]


def left_out(root: Path, used: Iterable[Path]) -> dict[str, int]:
    """The number of files below a folder, by suffix, most first, that are not in ``used``, part of one, or a document.

    Args:
        root: the folder.
        used: slides and annotations. A folder's DICOM files are part of it, and so are the folder of a MIRAX slide and the
            images beside a VMS or VMU index.
    """
    files = set(used)
    of_slides = {path for path in files if path.is_dir()} | {path.with_suffix("") for path in files if _is(path, ".mrxs")}
    of_indices = {path.parent for path in files if _is(path, ".vms", ".vmu")}
    counts: Counter[str] = Counter()
    for path in find_files(root):
        in_index = path.parent in of_indices and _is(path, ".jpg", ".opt", ".map")
        part = path.parent in of_slides and (_is_dicom(path) or path.parent.with_suffix(".mrxs") in files)
        if path not in files and not (part or in_index or _is(path, *_DOCUMENTS)):
            counts[path.suffix.lower() or "without suffix"] += 1
    return dict(counts.most_common())


def _begins(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(8).startswith(beginnings)
    except OSError:  # not readable
        return False


def _is(path: Path, *suffixes: str) -> bool:
    return path.suffix.lower() in suffixes


def _is_dicom(path: Path) -> bool:
    """Decided by the suffix, or by the content if the suffix does not belong to another known kind of file."""
    if path.suffix.lower() in (*SLIDE_SUFFIXES, *PICTURE_SUFFIXES, *VECTOR_SUFFIXES):
        return _is(path, ".dcm")
    try:
        return is_dicom(path)
    except OSError:  # not readable
        return False


def stem_of(path: Path) -> str:
    """A slide's name: a file's name without its suffix, or a folder's name."""
    return path.name if path.is_dir() else path.name[: len(path.name) - len(path.suffix)]


def read_table(path: Path) -> list[list[str]]:
    """The cells of a text table of any separator; lines that are blank or start with ``#`` are left out, and a missing value
    (:func:`comel.cohort.table_text.is_missing`) is empty.

    Raises:
        ManifestError: it cannot be read, or holds nothing.
    """
    lines = lines_of(path, read_content(path, _MAX_TABLE_BYTES), comments=True)
    if not lines:
        raise ManifestError(f"{path}: the table is empty", "give a table with a line for each slide or patient")
    return [["" if is_missing(cell) else cell for cell in cells] for _, cells in lines]


def write_manifest(
    cohort: Cohort, root: Path, out: Path, *, folds: int | None = None, seed: int = 0, force: bool = False
) -> tuple[Manifest, Path]:
    """Write a cohort's manifest; it is read back and checked before it gets its name.

    Args:
        cohort: the cohort to write.
        root: the cohort's folder.
        out: the CSV to write.
        folds: also assign the slides to this many folds, see :func:`comel.cohort.splits.assign_folds`.
        seed: the seed of the folds.
        force: replace an existing file.

    Returns:
        The manifest as it is read back, and the folder that its paths start from: the manifest's own if the cohort lies
        in it, else ``root``.

    Raises:
        ManifestError: there are no slides, two have the same name, ``out`` exists, or a row cannot be used.
        ComelError: the folds cannot be assigned.
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
    """The number of slides in each task by label and split (``-`` if the split is not stated)."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in manifest.rows:
        counts[row.task][row.label][row.split or "-"] += 1
    return {task: {label: dict(splits) for label, splits in labels.items()} for task, labels in counts.items()}


def check_labels(rows: Sequence[ManifestRow]) -> Iterator[str]:
    """A warning for each task with only one label, and for labels, tasks and slides that look alike."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.task].add(row.label)
    for task, found in labels.items():
        if len(found) == 1:
            yield f"task '{task}' has the label '{next(iter(found))}' only; training needs two labels per task"
        yield from alike(f"task '{task}'", "labels", sorted(found))
    yield from alike("folders", "tasks", sorted(labels))
    yield from alike("files", "slides", sorted(row.slide_id for row in rows))


def _cells(row: ManifestRow, start: Path) -> list[str]:
    values = [getattr(row, name) for name in REQUIRED + OPTIONAL]
    return [_relative(value, start) if isinstance(value, Path) else "" if value is None else str(value) for value in values]


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(_absolute(path), start)).as_posix()


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
