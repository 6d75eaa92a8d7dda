from __future__ import annotations

from pathlib import Path

import pytest

from comel.cohort.manifest import read_manifest
from comel.cohort.sources.tcga import build, read_subtypes
from comel.errors import ManifestError
from tests.comel.cohort.sources.trees import manifest_command, touch, write

UUID = "0b1c2d3e-0000-4000-8000-00000000000{}"


def name(patient: str, kind: str = "01Z-00-DX1", number: int = 0) -> str:
    return f"TCGA-{patient}-{kind}.{UUID.format(number).upper()}.svs"


def sheet(path: Path, *files: tuple[str, str, str]) -> Path:
    """A GDC sample sheet of (file id, file name, project)."""
    header = "File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type\n"
    lines = (f"{i}\t{n}\tBiospecimen\tSlide Image\t{p}\t{n[:12]}\t{n[:16]}\tPrimary Tumor\n" for i, n, p in files)
    return write(path, header + "".join(lines))


def gdc_manifest(path: Path, *files: tuple[str, str]) -> Path:
    return write(path, "id\tfilename\tmd5\tsize\tstate\n" + "".join(f"{i}\t{n}\tabc\t1\treleased\n" for i, n in files))


def test_projects_of_lung_and_kidney_are_labels(tmp_path: Path) -> None:
    root = tmp_path / "gdc"
    projects = ["TCGA-LUAD", "TCGA-LUSC", "TCGA-KIRC, TCGA-KIRC", "TCGA-KIRP", "TCGA-KICH"]
    files = [(f"id-{i}", name(f"0{i}-A00{i}"), project) for i, project in enumerate(projects)]
    touch(root, *(f"{identity}/{file}" for identity, file, _ in files), f"id-0/logs/{files[0][1]}.parcel")
    listed = manifest_command("tcga", root, "--sample-sheet", sheet(tmp_path / "sheet.tsv", *files))
    assert listed.warnings == []
    rows = read_manifest(root / "manifest.csv").rows
    assert [(row.task, row.label) for row in rows] == [
        ("NSCLC", "LUAD"), ("NSCLC", "LUSC"), ("RCC", "KIRC"), ("RCC", "KIRP"), ("RCC", "KICH")
    ]  # fmt: skip
    assert (rows[0].slide_id, rows[0].patient_id, rows[0].site) == (files[0][1].removesuffix(".svs"), "TCGA-00-A000", "00")
    assert [row.path for row in rows] == [root / identity / file for identity, file, _ in files]
    assert all(row.case_id is None and row.split is None for row in rows)


def test_project_may_be_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, f"TCGA-LUAD/{name('05-4244')}", f"tcga-lusc/deep/{name('18-3406')}")
    cohort = build(tmp_path)
    assert [(row.task, row.label, row.patient_id) for row in cohort.rows] == [
        ("NSCLC", "LUAD", "TCGA-05-4244"),
        ("NSCLC", "LUSC", "TCGA-18-3406"),
    ]
    touch(tmp_path, f"x/{name('18-3407')}")
    with pytest.raises(ManifestError, match=r"1 slides have no project: TCGA-18-3407.*--sample-sheet"):
        build(tmp_path)


def test_only_diagnostic_slides_of_tumours(tmp_path: Path) -> None:
    kinds = ("01Z-00-DX1", "01Z-00-DX2", "06Z-00-DX1", "11Z-00-DX1", "01A-01-TS1", "01A-01-BS1", "01Z-00-DXA")
    touch(tmp_path, *(f"TCGA-LUSC/{name('18-3406', kind)}" for kind in kinds), "TCGA-LUSC/other.svs")
    cohort = build(tmp_path)
    assert [row.slide_id.split(".")[0] for row in cohort.rows] == [
        f"TCGA-18-3406-{kind}" for kind in sorted(("01Z-00-DX1", "01Z-00-DX2", "01Z-00-DXA", "06Z-00-DX1"))
    ]
    said = "\n".join(cohort.warnings)
    assert "1 files are left out, not named like a TCGA slide: other.svs" in said
    assert "2 files are left out, not a diagnostic slide: TCGA-18-3406-01A-01-BS1" in said
    assert "1 files are left out, not a tumour sample: TCGA-18-3406-11Z-00-DX1" in said


def test_manifest_says_which_slides_and_disagrees_with_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "gdc"
    here, moved, absent, surplus = (name(f"05-000{i}") for i in range(4))
    touch(root, f"TCGA-LUAD/id-0/{here}", f"TCGA-LUAD/elsewhere/{moved}", f"TCGA-LUAD/{surplus}")
    listing = gdc_manifest(tmp_path / "gdc.txt", ("id-0", here), ("id-1", moved), ("id-2", absent), ("id-3", "clinical.xml"))
    files = [(i, n, "TCGA-LUAD") for i, n in (("id-0", here), ("id-1", moved), ("id-2", absent))]
    cohort = build(root, gdc_manifest=listing, sample_sheet=sheet(tmp_path / "sheet.tsv", *files))
    assert [row.path.relative_to(root).as_posix() for row in cohort.rows] == [
        f"TCGA-LUAD/id-0/{here}",
        f"TCGA-LUAD/elsewhere/{moved}",
        f"id-2/{absent}",
    ]
    assert cohort.warnings == [
        f"1 of 3 listed slides are not on disk: {absent}",
        f"1 slides on disk are not listed and are left out: {surplus}",
        "task 'NSCLC' has the label 'LUAD' only; training needs two labels per task",
    ]


GDC_CLINICAL = """cases.case_id\tcases.submitter_id\tdiagnoses.primary_diagnosis
u1\tTCGA-A1-0001\tInfiltrating duct carcinoma, NOS
u1\tTCGA-A1-0001\t'--
u2\tTCGA-A1-0002\tLobular carcinoma, NOS
u3\tTCGA-A1-0003\tMedullary carcinoma, NOS
u4\tTCGA-A1-0004\tInfiltrating duct carcinoma, NOS
u4\tTCGA-A1-0004\tLobular carcinoma, NOS
"""
CBIOPORTAL = """Study ID,Patient ID,Cancer Type Detailed
brca,TCGA-A1-0001,Breast Invasive Ductal Carcinoma
brca,TCGA-A1-0002,Breast Invasive Lobular Carcinoma
brca,TCGA-A1-0003,Metaplastic Breast Cancer
brca,TCGA-A1-0004,Breast Invasive Ductal Carcinoma
brca,TCGA-A1-0004,Breast Invasive Lobular Carcinoma
"""
OWN = """#comment
patient,mine
TCGA-A1-0001,IDC
second header,
TCGA-A1-0002,ilc
TCGA-A1-0003,other
TCGA-A1-0004,IDC
TCGA-A1-0004,ILC
"""


@pytest.mark.parametrize(("text", "column"), [(GDC_CLINICAL, None), (CBIOPORTAL, None), (OWN, "Mine")])
def test_subtypes_from_a_table(tmp_path: Path, text: str, column: str | None) -> None:
    table = write(tmp_path / "clinical.tsv", text)
    touch(tmp_path, *(f"TCGA-BRCA/{name(f'A1-000{i}')}" for i in range(1, 6)))
    listed = manifest_command("tcga", tmp_path, "--subtypes", table, *(["--subtype-column", column] if column else []))
    rows = read_manifest(tmp_path / "manifest.csv").rows
    assert [(row.task, row.label, row.patient_id) for row in rows] == [
        ("BRCA", "IDC", "TCGA-A1-0001"),
        ("BRCA", "ILC", "TCGA-A1-0002"),
    ]
    assert listed.warnings[:2] == [
        "BRCA: 1 patients have no subtype and are left out: TCGA-A1-0005",
        "BRCA: 1 patients have several subtypes, left out: TCGA-A1-0004",
    ]
    assert listed.warnings[2].startswith("BRCA: 1 slides of other subtypes are left out: ")
    assert len(listed.warnings) == 3


def test_oesophagus_has_its_own_names(tmp_path: Path) -> None:
    table = write(
        tmp_path / "esca.csv",
        "Patient ID,Oncotree Code\nTCGA-L5-0001,ESCC\nTCGA-L5-0002,ESCA\nTCGA-A1-0001,IDC\nTCGA-A1-0002,ESCC\n",
    )
    touch(tmp_path, *(f"TCGA-ESCA/{name(f'L5-000{i}')}" for i in (1, 2)), *(f"TCGA-BRCA/{name(f'A1-000{i}')}" for i in (1, 2)))
    cohort = build(tmp_path, subtypes=[table])
    assert [(row.task, row.label) for row in cohort.rows] == [("BRCA", "IDC"), ("ESCA", "ESCC"), ("ESCA", "EAC")]
    assert "BRCA: 1 slides of other subtypes are left out: ESCC 1" in cohort.warnings


def test_a_missing_table_or_column_is_named(tmp_path: Path) -> None:
    touch(tmp_path, f"TCGA-BRCA/{name('A1-0001')}", f"TCGA-LUAD/{name('05-4244')}", f"TCGA-COAD/{name('A6-0001')}")
    with pytest.raises(ManifestError, match=r"TCGA-BRCA does not state its subtypes.*--subtypes TABLE.*primary_diagnosis"):
        build(tmp_path)
    listed = manifest_command("tcga", tmp_path, "--task", "NSCLC")
    assert listed.result["tasks"] == {"NSCLC": {"LUAD": {"-": 1}}}
    assert "1 slides of projects outside the tasks are left out: TCGA-COAD 1" in listed.warnings
    with pytest.raises(ManifestError, match="--task LUNG: no such task; choose from NSCLC"):
        build(tmp_path, tasks=["LUNG"])
    with pytest.raises(ManifestError, match=r"no patient column \(found: who, subtype\)"):
        read_subtypes([write(tmp_path / "t.csv", "who,subtype\na,b\n")])
    with pytest.raises(ManifestError, match=r"no subtype column \(found: Patient ID, kind\).*--subtype-column"):
        read_subtypes([write(tmp_path / "t.csv", "Patient ID,kind\na,b\n")])
    with pytest.raises(ManifestError, match=r"no column file_name .*give a GDC sample sheet"):
        build(tmp_path, sample_sheet=write(tmp_path / "s.tsv", "File ID\tProject ID\n1\tTCGA-LUAD\n"))
    with pytest.raises(ManifestError, match="no slide"):
        build(tmp_path / "TCGA-LUAD" / "..", gdc_manifest=gdc_manifest(tmp_path / "m.txt", ("1", "a.xml")), tasks=["RCC"])


def test_folds_keep_patients_together(tmp_path: Path) -> None:
    for project, site in (("TCGA-LUAD", "05"), ("TCGA-LUSC", "18")):
        touch(tmp_path, *(f"{project}/{name(f'{site}-00{i:02d}', f'01Z-00-DX{k}')}" for i in range(8) for k in (1, 2)))
    manifest_command("tcga", tmp_path, "--folds", 4)
    rows = read_manifest(tmp_path / "manifest.csv").rows
    folds = {row.patient_id: {other.fold for other in rows if other.patient_id == row.patient_id} for row in rows}
    assert len(folds) == 16
    assert all(len(found) == 1 for found in folds.values())
