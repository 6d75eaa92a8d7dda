"""TCGA subtyping tasks: lung (NSCLC), breast (BRCA), kidney (RCC) and oesophagus (ESCA), from the GDC's diagnostic slides.

A slide's file name is its barcode, ``TCGA-SS-PPPP-01Z-00-DX1.UUID.svs``: SS is the tissue source site, ``TCGA-SS-PPPP`` the
patient, 01 to 09 a tumour sample, DX a diagnostic slide (TS, BS and MS are frozen sections). The subtypes of lung and kidney
are separate projects; those of breast and oesophagus are in a clinical table. No task has a negative class.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comel.base.text import listed
from comel.cohort.sources.common import Cohort, check_labels, find_files, left_out, read_table, slide_row
from comel.errors import ManifestError

__all__ = ["TASKS", "build", "read_subtypes"]

TASKS: Mapping[str, Mapping[str, str | None]] = {
    "NSCLC": {"TCGA-LUAD": "LUAD", "TCGA-LUSC": "LUSC"},
    "BRCA": {"TCGA-BRCA": None},
    "RCC": {"TCGA-KIRC": "KIRC", "TCGA-KIRP": "KIRP", "TCGA-KICH": "KICH"},
    "ESCA": {"TCGA-ESCA": None},
}
"""The projects of each task; a project's label, or None if a table states it."""

SUBTYPES: Mapping[str, Mapping[str, str]] = {
    "BRCA": {
        "idc": "IDC",
        "breast invasive ductal carcinoma": "IDC",
        "infiltrating ductal carcinoma": "IDC",
        "infiltrating duct carcinoma, nos": "IDC",
        "ilc": "ILC",
        "breast invasive lobular carcinoma": "ILC",
        "infiltrating lobular carcinoma": "ILC",
        "lobular carcinoma, nos": "ILC",
    },
    "ESCA": {
        "eac": "EAC",
        "adenocarcinoma": "EAC",
        "adenocarcinoma, nos": "EAC",
        "esophageal adenocarcinoma": "EAC",
        "esophagus adenocarcinoma, nos": "EAC",
        "esca": "EAC",
        "escc": "ESCC",
        "squamous cell carcinoma": "ESCC",
        "squamous cell carcinoma, nos": "ESCC",
        "esophageal squamous cell carcinoma": "ESCC",
        "esophagus squamous cell carcinoma": "ESCC",
    },
}
"""Names of the subtypes in tables of the GDC and cBioPortal, in lower case."""

PATIENT_COLUMNS = ("cases.submitter_id", "case_submitter_id", "bcr_patient_barcode", "patient_id", "case_id", "patient")
SUBTYPE_COLUMNS = (
    "oncotree_code",
    "cancer_type_detailed",
    "diagnoses.primary_diagnosis",
    "primary_diagnosis",
    "histological_type",
    "subtype",
)
_BARCODE = re.compile(r"(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4})-(\d{2})[A-Z]-\d{2}-([A-Z]{2})[A-Z0-9]*(?=[.\-_]|$)")
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
_PROJECT = re.compile(r"TCGA-[A-Z]{2,5}")
_NOTHING = {"", "'--", "--", "na", "n/a", "[not available]", "not reported"}


@dataclass(frozen=True)
class _File:
    """A GDC file: its name, its actual or expected path, and its project if known."""

    name: str
    path: Path
    project: str | None


def build(
    root: Path,
    *,
    gdc_manifest: Path | None = None,
    sample_sheet: Path | None = None,
    subtypes: Sequence[Path] = (),
    subtype_column: str | None = None,
    tasks: Sequence[str] = (),
) -> Cohort:
    """The diagnostic slides of a GDC download.

    A slide's project comes from the sample sheet, otherwise from a folder on its path (``TCGA-LUAD``).

    Args:
        root: the folder of the download; a slide lies in ``FILE_ID/``, as the GDC's tool leaves it, or anywhere else.
        gdc_manifest: the GDC manifest (columns ``id``, ``filename``); without it, the sample sheet's files or all that are
            on disk.
        sample_sheet: the GDC sample sheet (columns ``File ID``, ``File Name``, ``Project ID``).
        subtypes: clinical tables with a patient and a subtype column, see :func:`read_subtypes`.
        subtype_column: the subtype column, if its name is not one of the usual ones.
        tasks: only these of :data:`TASKS`, in this order.

    Raises:
        ManifestError: there are no slides, a table lacks a column, a slide has no project, or BRCA or ESCA has no table.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise ManifestError(f"--task {unknown[0]}: no such task", f"choose from {', '.join(TASKS)}")
    cohort = Cohort()
    files = _files(root, gdc_manifest, sample_sheet, cohort)
    diagnostic = _diagnostic(files, cohort)
    homeless = [file.name for file in diagnostic if file.project is None]
    if homeless:
        raise ManifestError(
            f"{len(homeless)} slides have no project: {listed(sorted(homeless))}",
            "give --sample-sheet (the GDC's cart offers it), or put the slides of a project in a folder such as TCGA-LUAD",
        )
    task_of = {project: task for task, projects in TASKS.items() for project in projects}
    others = Counter(str(file.project) for file in diagnostic if file.project not in task_of)
    if others:
        counted = ", ".join(f"{project} {count}" for project, count in sorted(others.items()))
        cohort.warnings.append(f"{others.total()} slides of projects outside the tasks are left out: {counted}")
    known = read_subtypes(subtypes, subtype_column) if subtypes else {}
    for task in tasks or TASKS:
        _add_task(task, [file for file in diagnostic if task_of.get(str(file.project)) == task], known, cohort)
    cohort.warnings += check_labels(cohort.rows)
    cohort.left_out = left_out(root, find_files(root, (".svs",)))
    return cohort


def read_subtypes(tables: Iterable[Path], column: str | None = None) -> dict[str, set[str]]:
    """Each patient's subtypes in clinical tables: ``{TCGA-SS-PPPP: {value, ...}}``.

    Tables are the GDC's ``clinical.tsv``, cBioPortal's clinical data, or any with such columns. Column names are compared
    without case, spaces as underscores. Lines whose patient is not a TCGA barcode (second headers) and empty cells are skipped.

    Raises:
        ManifestError: a table lacks a patient or a subtype column.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        header, *lines = read_table(table)
        names = [_plain(name) for name in header]
        patient = _column(table, header, names, PATIENT_COLUMNS, "patient", "")
        wanted = (_plain(column),) if column else SUBTYPE_COLUMNS
        subtype = _column(table, header, names, wanted, "subtype", "; another is named by --subtype-column")
        for cells in lines:
            if len(cells) > max(patient, subtype):
                match = _PATIENT.match(cells[patient].upper())
                if match and cells[subtype].lower() not in _NOTHING:
                    found[match[0]].add(cells[subtype])
    return found


def _files(root: Path, gdc_manifest: Path | None, sample_sheet: Path | None, cohort: Cohort) -> list[_File]:
    on_disk: dict[str, list[Path]] = defaultdict(list)
    for path in find_files(root, (".svs",)):
        on_disk[path.name].append(path)
    projects: dict[str, str] = {}
    listing: list[tuple[str, ...]] | None = None
    if sample_sheet is not None:
        sheet = _columns(sample_sheet, ("file_id", "file_name", "project_id"), "a GDC sample sheet")
        # A slide with several samples has its project once per sample.
        projects = {name: project.split(",")[0].strip() for _, name, project in sheet}
        listing = [(identity, name) for identity, name, _ in sheet]
    if gdc_manifest is not None:
        listing = _columns(gdc_manifest, ("id", "filename"), "a GDC manifest")
    if listing is None:
        paths = [path for name in sorted(on_disk) for path in on_disk[name]]
    else:
        wanted = list(dict.fromkeys((identity, name) for identity, name in listing if name.lower().endswith(".svs")))
        absent = [name for _, name in wanted if name not in on_disk]
        if absent:
            cohort.warnings.append(f"{len(absent)} of {len(wanted)} listed slides are not on disk: {listed(sorted(absent))}")
        surplus = on_disk.keys() - {name for _, name in wanted}
        if surplus:
            cohort.warnings.append(f"{len(surplus)} slides on disk are not listed and are left out: {listed(sorted(surplus))}")
        paths = [_one(identity, name, on_disk.get(name, []), root) for identity, name in wanted]
    if not paths:
        raise ManifestError(f"{root}: no slide (.svs)", "give the folder of the GDC download, or its manifest")
    return [_File(path.name, path, projects.get(path.name) or _project_on_path(path, root)) for path in paths]


def _one(identity: str, name: str, found: list[Path], root: Path) -> Path:
    """A listed file: where the GDC's tool puts it, otherwise the only place where it is found."""
    usual = root / identity / name
    return usual if not found or usual in found else found[0]


def _project_on_path(path: Path, root: Path) -> str | None:
    folders = (root.absolute().name, *path.relative_to(root).parts[:-1])
    return next((name.upper() for name in reversed(folders) if _PROJECT.fullmatch(name.upper())), None)


def _diagnostic(files: Sequence[_File], cohort: Cohort) -> list[_File]:
    """The diagnostic slides of tumours; the others are counted, one warning per reason."""
    kept, nameless, frozen, healthy = [], [], [], []
    for file in files:
        match = _BARCODE.match(file.name.upper())
        if match is None:
            nameless.append(file.name)
        elif match[4] != "DX":
            frozen.append(file.name)
        elif not 1 <= int(match[3]) <= 9:
            healthy.append(file.name)
        else:
            kept.append(file)
    for names, why in (
        (nameless, "not named like a TCGA slide"),
        (frozen, "not a diagnostic slide"),
        (healthy, "not a tumour sample"),
    ):
        if names:
            cohort.warnings.append(f"{len(names)} files are left out, {why}: {listed(sorted(names))}")
    return kept


def _add_task(task: str, files: Sequence[_File], known: Mapping[str, set[str]], cohort: Cohort) -> None:
    silent, torn, other = [], [], Counter[str]()
    for file in files:
        match = _BARCODE.match(file.name.upper())
        assert match is not None
        patient, label = match[1], TASKS[task][str(file.project)]
        if label is None:
            if not known:
                raise ManifestError(
                    f"{file.project} does not state its subtypes, which are the labels of the task {task}",
                    f"give --subtypes TABLE with a patient column ({PATIENT_COLUMNS[1]}, Patient ID, ...) and a subtype column "
                    "(Cancer Type Detailed, primary_diagnosis, ...), or choose tasks by --task",
                )
            values = known.get(patient, set())
            labels = {SUBTYPES[task].get(value.lower()) for value in values}
            label = next(iter(labels)) if len(labels) == 1 else None
            if not values:
                silent.append(patient)
            elif len(labels) > 1:
                torn.append(patient)
            elif label is None:
                other.update(values)
            if label is None:
                continue
        cohort.rows.append(slide_row(file.path, label, task, patient_id=patient, site=match[2]))
    if silent:
        cohort.warnings.append(
            f"{task}: {len(set(silent))} patients have no subtype and are left out: {listed(sorted(set(silent)))}"
        )
    if torn:
        cohort.warnings.append(
            f"{task}: {len(set(torn))} patients have several subtypes, left out: {listed(sorted(set(torn)))}"
        )
    if other:
        counted = ", ".join(f"{value} {count}" for value, count in sorted(other.items()))
        cohort.warnings.append(f"{task}: {other.total()} slides of other subtypes are left out: {counted}")


def _columns(table: Path, wanted: Sequence[str], kind: str) -> list[tuple[str, ...]]:
    """The cells of named columns, line by line."""
    header, *lines = read_table(table)
    names = [_plain(name) for name in header]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ManifestError(f"{table}: no column {missing[0]} (found: {', '.join(header)[:200]})", f"give {kind}")
    at = [names.index(name) for name in wanted]
    return [tuple(cells[i] for i in at) for cells in lines if len(cells) > max(at)]


def _column(table: Path, header: Sequence[str], names: Sequence[str], wanted: Sequence[str], kind: str, more: str) -> int:
    for name in wanted:
        if name in names:
            return names.index(name)
    raise ManifestError(
        f"{table}: no {kind} column (found: {', '.join(header)[:200]})", f"call it one of {', '.join(wanted)}{more}"
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
