"""Your own cohort, described by its folders: ``TASK/LABEL/slide`` or, for a single task, ``LABEL/slide``.

In a folder without slides PNG and JPEG pictures are the slides.

An annotation has the slide's name: ``slide.xml``, ``slide.geojson``, ``slide_mask.png`` or ``slide_mask.tif``, beside the
slide or anywhere else in the cohort's folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from comel.base.names import composed
from comel.base.text import listed
from comel.cohort.sources.common import (
    MASK_SUFFIXES,
    PICTURE_SUFFIXES,
    SLIDE_SUFFIXES,
    VECTOR_SUFFIXES,
    Cohort,
    check_labels,
    find_files,
    find_pictures,
    find_slides,
    left_out,
    slide_row,
    stem_of,
)
from comel.errors import ManifestError

__all__ = ["build"]

_MASK = "_mask"


def build(root: Path, *, task: str | None = None, patient_regex: str | None = None) -> Cohort:
    """The slides below a folder.

    Args:
        root: holds ``TASK/LABEL/slide``, or ``LABEL/slide`` if ``task`` is given; folders below the label do not matter.
        task: the one task's name.
        patient_regex: matches the patient in a slide's name: its first group, or the whole match.

    Raises:
        ManifestError: there are no slides, slides lie outside the folders, or the expression cannot be read.
    """
    cohort = Cohort()
    pattern = _compiled(patient_regex)
    slides = [path for path in find_slides(root) if not stem_of(path).lower().endswith(_MASK)]
    if not slides:
        slides = [path for path in find_pictures(root) if not stem_of(path).lower().endswith(_MASK)]
        cohort.warnings += [f"{len(slides)} pictures are the slides: fill in their um/px, column 'mpp'"] if slides else []
    if not slides:
        kinds = " ".join(sorted(SLIDE_SUFFIXES.union(PICTURE_SUFFIXES)))
        raise ManifestError(f"{root}: no slide ({kinds})", "give the folder of the slides")
    annotations = _annotations(root)
    without_patient = []
    for path in slides:
        folders = path.relative_to(root).parts[:-1]
        if len(folders) < (1 if task else 2):
            shape = "LABEL/slide" if task else "TASK/LABEL/slide; with one task, LABEL/slide and --task NAME"
            raise ManifestError(f"{path} does not lie in the folder of a label", f"the folders are {shape}")
        name, label = (task, folders[0]) if task else folders[:2]
        match = pattern.search(stem_of(path)) if pattern else None
        if pattern and not match:
            without_patient.append(path.name)
        patient = (match[1] if pattern and pattern.groups else match[0]) if match else None
        annotation = _annotation_of(path, annotations, cohort)
        cohort.rows.append(slide_row(path, label, name, patient_id=patient or None, annotation=annotation))
    if without_patient:
        cohort.warnings.append(
            f"--patient-regex finds no patient in {len(without_patient)} names: {listed(sorted(without_patient))}"
        )
    cohort.warnings += check_labels(cohort.rows)
    annotated = [row.annotation for row in cohort.rows if row.annotation is not None]
    cohort.left_out = left_out(root, [*slides, *annotated])
    return cohort


def _compiled(patient_regex: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(patient_regex) if patient_regex else None
    except re.error as error:
        raise ManifestError(
            f"--patient-regex {patient_regex}: {error}", "give a regular expression, such as '^([^_]+)'"
        ) from None


def _annotations(root: Path) -> dict[str, list[Path]]:
    """Files that may be annotations, by the slide's name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in find_files(root, VECTOR_SUFFIXES):
        found[composed(stem_of(path))].append(path)
    for path in find_files(root, MASK_SUFFIXES):
        if stem_of(path).lower().endswith(_MASK):
            found[composed(stem_of(path)[: -len(_MASK)])].append(path)
    return found


def _annotation_of(slide: Path, annotations: dict[str, list[Path]], cohort: Cohort) -> Path | None:
    candidates = annotations.get(composed(stem_of(slide)), [])
    beside = [path for path in candidates if path.parent == slide.parent]
    candidates = beside or candidates
    if len(candidates) > 1:
        others = ", ".join(str(path) for path in candidates[1:])
        cohort.warnings.append(f"{slide.name} has {len(candidates)} annotations: {candidates[0]} is used, {others} not")
    return candidates[0] if candidates else None
