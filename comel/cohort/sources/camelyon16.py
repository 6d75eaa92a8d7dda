"""CAMELYON16: lymph nodes with and without metastases of breast cancer (Litjens et al., GigaScience 7:giy065, 2018).

Both published layouts are read: folders ``training/normal``, ``training/tumor``, ``testing/images`` with their
``lesion_annotations``, and flat ones with ``images`` and ``annotations``. A slide is recognised by its name: ``normal_``,
``tumor_`` or ``test_`` and a number. Training slides have their label in the name, test slides in ``reference.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from comel.base.registry import nearest
from comel.base.text import listed
from comel.cohort.sources.common import Cohort, find_files, left_out, read_table, slide_row, stem_of
from comel.cohort.splits import assign_splits
from comel.errors import ManifestError

__all__ = ["build", "compare_labels", "read_labels"]

NORMAL, TUMOR = "normal", "tumor"
_NAME = re.compile(r"(normal|tumor|test)_\d+", re.IGNORECASE)
_LABELS = {"normal": NORMAL, "tumor": TUMOR, "false": NORMAL, "true": TUMOR, "0": NORMAL, "1": TUMOR}


def build(
    root: Path,
    *,
    task: str = "camelyon16",
    val_fraction: float = 0.15,
    seed: int = 0,
    exclude: Iterable[str] = (),
    labels: Path | None = None,
) -> Cohort:
    """The slides of a CAMELYON16 download.

    The official test set is the test split; the training set is dealt out to train and val, stratified by label. Which
    slides belong to one patient is not published, so every slide counts as its own patient.

    An annotation is the XML with the slide's name. Slides that the download's README names as not annotated exhaustively
    keep their label but get no annotation, so that they are left out of instance scores.

    Args:
        root: the folder of the download.
        task: the task's name.
        val_fraction: share of the training set for validation.
        seed: the seed of the random split.
        exclude: slides to leave out.
        labels: another table of labels to compare with, see :func:`read_labels`; it does not change any label.

    Raises:
        ManifestError: there are no slides, test slides but no reference, or an excluded slide that does not exist.
    """
    cohort = Cohort()
    warn = cohort.warnings.append
    slides = _by_name(find_files(root, (".tif", ".tiff")), cohort, "slide")
    annotations = _by_name(find_files(root, (".xml",)), cohort, "annotation")
    if not slides:
        raise ManifestError(f"{root}: no CAMELYON16 slide (normal_, tumor_ or test_ and a number, .tif)", "give its folder")
    excluded = {name.lower().removesuffix(".tif") for name in exclude}
    for name in sorted(excluded - slides.keys()):
        raise ManifestError(f"--exclude {name}: no such slide", nearest(name, sorted(slides)))
    reference = _reference(root, slides)
    missing = reference.keys() - slides.keys()
    if missing:
        warn(f"reference.csv names {len(missing)} slides that are not on disk: {listed(sorted(missing))}")
    label_of = {name: _NAME.match(name)[1] for name in slides if not name.startswith("test")} | reference  # type: ignore[index]
    unknown = {name for name in slides if name not in label_of}
    if unknown:
        warn(f"{len(unknown)} test slides are not in reference.csv and are left out: {listed(sorted(unknown))}")
    for name, path in slides.items():
        folder = path.parent.name.lower()
        if folder in (NORMAL, TUMOR) and name in label_of and label_of[name] != folder:
            warn(f"{name} lies in the folder '{folder}', its label is {label_of[name]}")
    if labels is not None:
        for line in compare_labels(label_of, read_labels(labels), labels.name):
            warn(line)
    incomplete = _not_exhaustive(root) & slides.keys()
    if incomplete:
        shown = listed(sorted(incomplete))
        warn(f"the README names {len(incomplete)} slides as not annotated exhaustively; they get no annotation: {shown}")
    if not annotations:
        packed = [path.name for path in find_files(root, (".zip",)) if "annotation" in path.name.lower()]
        warn("no slide has an annotation, so there are no instance labels" + (f"; unpack {packed[0]}" if packed else ""))
    bare = set()
    for name, path in slides.items():
        if name in unknown or name in excluded:
            continue
        annotation = annotations.get(name)
        if annotation is not None and label_of[name] == NORMAL:
            warn(f"{name} is labelled normal but has the annotation {annotation.name}, which is not used")
            annotation = None
        elif annotation is None and label_of[name] == TUMOR:
            bare.add(name)
        if name in incomplete:
            annotation = None
        split = "test" if name.startswith("test") else None
        cohort.rows.append(slide_row(path, label_of[name], task, split=split, annotation=annotation))
    if bare and annotations:
        warn(f"{len(bare)} slides are labelled tumor but have no annotation: {listed(sorted(bare))}")
    training = [row for row in cohort.rows if row.split is None]
    split_of = assign_splits(training, val_fraction=val_fraction, test_fraction=0.0, seed=seed) if training else {}
    cohort.rows = [replace(row, split=row.split or split_of[row.slide_id]) for row in cohort.rows]
    cohort.left_out = left_out(root, find_files(root, (".tif", ".tiff", ".xml", ".zip")))
    return cohort


def read_labels(path: Path) -> dict[str, str]:
    """The labels of ``reference.csv`` or a table: the first column is the slide or one of its files, the second the label.

    A label is normal, tumor, 0, 1, false or true, in any case; a first line that does not name a slide is the header.

    Returns:
        ``{slide in lower case: "normal" | "tumor"}``.

    Raises:
        ManifestError: it cannot be read, a line has no slide or no label, or a slide has two labels.
    """
    labels: dict[str, str] = {}
    for number, cells in enumerate(read_table(path), start=1):
        name = cells[0].split(".")[0].lower()
        if not _NAME.fullmatch(name):
            if number == 1:
                continue
            raise ManifestError(f"{path.name} line {number}: '{cells[0]}' is not a CAMELYON16 slide", "correct the table")
        label = _LABELS.get(cells[1].lower()) if len(cells) > 1 else None
        if label is None:
            raise ManifestError(f"{path.name} line {number}: {name} has no label normal or tumor", "correct the table")
        if labels.setdefault(name, label) != label:
            raise ManifestError(f"{path.name} line {number}: {name} has two labels", "correct the table")
    return labels


def compare_labels(first: dict[str, str], second: dict[str, str], name: str) -> list[str]:
    """One line for each slide that ``second``, the table called ``name``, labels differently from ``first``."""
    return [
        f"{slide}: labelled {first[slide]}, but {second[slide]} in {name}; the first is kept"
        for slide in sorted(first.keys() & second.keys())
        if first[slide] != second[slide]
    ]


def _by_name(paths: list[Path], cohort: Cohort, kind: str) -> dict[str, Path]:
    """Files by slide, name in lower case; other files are left out."""
    found: dict[str, Path] = {}
    for path in paths:
        name = stem_of(path).lower()
        if _NAME.fullmatch(name) and found.setdefault(name, path) != path:
            if kind == "slide":
                raise ManifestError(f"{found[name]} and {path} are the same slide", "keep one of them")
            cohort.warnings.append(f"{name} has two annotations, {path} is not used")
    return found


def _reference(root: Path, slides: dict[str, Path]) -> dict[str, str]:
    tables = [path for path in find_files(root, (".csv",)) if path.name.lower() == "reference.csv"]
    if tables:
        return read_labels(tables[0])
    if any(name.startswith("test") for name in slides):
        raise ManifestError(f"{root}: there are test slides but no reference.csv", "download it: it holds their labels")
    return {}


def _not_exhaustive(root: Path) -> set[str]:
    """Slides that a README names as not annotated exhaustively: in that line, or in the list that follows it."""
    named: set[str] = set()
    for path in find_files(root, (".md", ".txt")):
        if path.name.lower().startswith("readme"):
            lines = [line.lower() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            for number, line in enumerate(lines):
                if "exhaustive" in line:
                    named |= _names_in(line) or _names_in_list(lines[number + 1 :])
    return named


def _names_in(line: str) -> set[str]:
    return {match[0] for match in _NAME.finditer(line)}


def _names_in_list(lines: Iterable[str]) -> set[str]:
    """The slides in the lines up to the first without a slide; blank lines may come before them, not between them."""
    named: set[str] = set()
    for line in lines:
        found = _names_in(line)
        if not found and (line.strip() or named):
            break
        named |= found
    return named
