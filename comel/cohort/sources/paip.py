"""PAIP: tumours of liver, colon, prostate, pancreas and biliary tract, and kidney, from three hospitals in Seoul.

The data come from the platform (Kang et al., BMC Med. Inform. Decis. Mak. 21:114, 2021) and from the challenges of 2019
(liver), 2020 (colon) and 2021 (perineural invasion in colon, prostate and pancreas): slides (``.svs``), Aperio ImageScope XML
of the same name, and for 2019 masks called ``NAME_viable.tif`` and ``NAME_whole.tif``. No folder layout is published, so this
file asks for one folder per organ, in which the files may lie as downloaded; its name is the task.

All slides of the challenges show a tumour. A task needs a second class, so slides without a tumour are marked by their folder,
``normal``, or by a table of labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import ParseError

from comel.base.names import composed
from comel.base.text import listed
from comel.cohort.sources.common import (
    MASK_SUFFIXES,
    VECTOR_SUFFIXES,
    Cohort,
    check_labels,
    find_files,
    left_out,
    read_table,
    slide_row,
    stem_of,
)
from comel.errors import ManifestError

__all__ = ["build"]


def build(
    root: Path,
    *,
    task: str | None = None,
    positive: str = "tumor",
    negative: str = "normal",
    labels: Path | None = None,
    suffixes: Sequence[str] = ("",),
    annotated: bool = True,
) -> Cohort:
    """The slides of PAIP downloads.

    A slide's label comes from ``labels``; otherwise it is ``negative`` in a folder of that name, and ``positive`` elsewhere.

    Args:
        root: holds one folder per organ; or is the organ's folder, if ``task`` is given.
        task: the one task's name.
        positive: label of slides with a tumour.
        negative: label of slides without one, and name of their folder.
        labels: a table whose first column is the slide, or its file, and whose second is its label.
        suffixes: endings after the slide's name in its annotation's name; the first found is used: ``_viable``, ``_whole``, or
            nothing for the XML.
        annotated: whether annotations are used. PAIP 2021's XML marks nerves, so it does not outline the tumour.

    Raises:
        ManifestError: there are no slides, slides lie outside the organs' folders, or a slide is not in the table.
    """
    cohort = Cohort()
    slides = find_files(root, (".svs",))
    if not slides:
        raise ManifestError(f"{root}: no slide (.svs)", "unpack the download into one folder per organ")
    given = _labels(labels) if labels is not None else None
    by_task: dict[str, list[Path]] = defaultdict(list)
    for path in slides:
        folders = path.relative_to(root).parts[:-1]
        if task is None and not folders:
            raise ManifestError(f"{path} lies in no organ's folder", "move it, or name the one task: --task prostate")
        by_task[task or folders[0]].append(path)
    layered: dict[str, int] = {}
    for name, members in by_task.items():
        folder = root if task else root / name
        annotations = {composed(path.name.lower()): path for path in find_files(folder, (*VECTOR_SUFFIXES, *MASK_SUFFIXES))}
        bare, cut = [], []
        for path in members:
            label = positive
            if given is not None:
                label = given.get(composed(stem_of(path)), "")
                if not label:
                    raise ManifestError(f"{labels}: does not list {stem_of(path)}", "add its label or remove the slide")
            elif negative.lower() in (part.lower() for part in path.relative_to(folder).parts[:-1]):
                label = negative
            annotation = _annotation_of(path, annotations, suffixes) if annotated else None
            if annotation is not None and label == negative:
                cut.append(path.name)
                annotation = None
            elif annotation is None and label != negative:
                bare.append(path.name)
            if annotation is not None and annotation.suffix.lower() == ".xml":
                layers = _filled_layers(annotation)
                if layers > 1:
                    layered[annotation.name] = layers
            cohort.rows.append(slide_row(path, label, name, annotation=annotation))
        if bare and annotated:
            cohort.warnings.append(f"{name}: {len(bare)} slides of {positive} have no annotation: {listed(sorted(bare))}")
        if cut:
            cohort.warnings.append(
                f"{name}: {len(cut)} slides of {negative} have an annotation, not used: {listed(sorted(cut))}"
            )
    if layered:
        cohort.warnings.append(
            f"{len(layered)} XML files draw on several layers, all of which count as positive (nerves too: give "
            f"--no-annotations for PAIP 2021): {listed(sorted(layered))}"
        )
    cohort.warnings += check_labels(cohort.rows)
    cohort.left_out = left_out(root, find_files(root, (".svs", *VECTOR_SUFFIXES, *MASK_SUFFIXES)))
    return cohort


def _labels(path: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, cells in enumerate(read_table(path), start=1):
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise ManifestError(
                f"{path.name} line {number}: lacks a slide or a label", "the first two columns are slide and label"
            )
        name = composed(Path(cells[0]).name)
        name = name[:-4] if name.lower().endswith(".svs") else name
        if labels.setdefault(name, cells[1]) != cells[1]:
            raise ManifestError(f"{path.name} line {number}: {name} has two labels", "correct the table")
    return labels


def _annotation_of(slide: Path, annotations: dict[str, Path], suffixes: Sequence[str]) -> Path | None:
    for suffix in suffixes:
        for kind in (*VECTOR_SUFFIXES, *MASK_SUFFIXES):
            found = annotations.get(composed(f"{stem_of(slide)}{suffix}{kind}".lower()))
            if found is not None:
                return found
    return None


def _filled_layers(path: Path) -> int:
    """How many layers of an ImageScope file have a region; 0 for other XML."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        root = parse(path, forbid_dtd=True).getroot()
    except (ParseError, DefusedXmlException) as error:
        raise ManifestError(f"{path}: not usable XML ({error})", "download it again") from None
    return sum(1 for layer in root.findall("Annotation") if layer.find("Regions/Region") is not None)
