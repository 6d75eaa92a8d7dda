from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from comel.cohort.manifest import read_manifest
from comel.cohort.sources.camelyon16 import build, compare_labels, read_labels
from comel.errors import ComelError, ManifestError
from tests.comel.cohort.sources.trees import manifest_command, touch, write
from tests.places import REAL_DATA

REAL = REAL_DATA / "cohorts"
REFERENCE = "test_001,Tumor,IDC,Macro\ntest_002,Normal,IDC,None\ntest_003,Tumor,ILC,Micro\n"


def official(root: Path) -> Path:
    """Six normal and four tumour slides, three test slides."""
    touch(root, *(f"training/normal/normal_{i:03d}.tif" for i in range(1, 7)))
    for i in range(1, 5):
        touch(root, f"training/tumor/tumor_{i:03d}.tif", f"training/lesion_annotations/tumor_{i:03d}.xml")
    touch(root, *(f"testing/images/test_{i:03d}.tif" for i in (1, 2, 3)), "testing/lesion_annotations/test_001.xml")
    touch(root, "testing/lesion_annotations/test_003.xml", "masks/tumor_001_mask.tif", "testing/.hidden/test_009.tif")
    write(root / "testing/reference.csv", REFERENCE)
    return root


def test_official_layout(tmp_path: Path) -> None:
    root = official(tmp_path / "CAMELYON16")
    listed = manifest_command("camelyon16", root, "--val-fraction", "0.25")
    assert listed.warnings == []
    rows = {row.slide_id: row for row in read_manifest(root / "manifest.csv").rows}
    assert len(rows) == 13
    assert {name for name, row in rows.items() if row.split == "test"} == {"test_001", "test_002", "test_003"}
    assert {name for name, row in rows.items() if row.label == "tumor"} == {
        "tumor_001", "tumor_002", "tumor_003", "tumor_004", "test_001", "test_003"
    }  # fmt: skip
    assert Counter(row.label for row in rows.values() if row.split == "val") == {"normal": 1, "tumor": 1}
    assert rows["tumor_002"].path == root / "training/tumor/tumor_002.tif"
    assert rows["tumor_002"].annotation == root / "training/lesion_annotations/tumor_002.xml"
    assert rows["test_003"].annotation == root / "testing/lesion_annotations/test_003.xml"
    assert {name for name, row in rows.items() if row.annotation} == {n for n, row in rows.items() if row.label == "tumor"}
    assert listed.result["tasks"]["camelyon16"]["tumor"] == {"test": 2, "train": 3, "val": 1}
    assert listed.result["annotated"] == 6


def test_flat_layout_gives_the_same_slides(tmp_path: Path) -> None:
    first = build(official(tmp_path / "official"))
    flat = tmp_path / "flat"
    touch(flat, *(f"images/{row.path.name}" for row in first.rows))
    touch(flat, *(f"annotations/{row.annotation.name}" for row in first.rows if row.annotation))
    write(flat / "reference.csv", REFERENCE)
    second = build(flat)
    assert second.warnings == []
    known = [(row.slide_id, row.label, row.split, row.annotation is not None) for row in first.rows]
    assert sorted(known) == sorted((r.slide_id, r.label, r.split, r.annotation is not None) for r in second.rows)


def test_sources_that_disagree_are_said_and_not_resolved(tmp_path: Path) -> None:
    root = official(tmp_path)
    touch(root, "testing/images/test_004.tif", "testing/lesion_annotations/test_002.xml", "training/tumor/normal_007.tif")
    write(root / "testing/reference.csv", REFERENCE + "test_005,Tumor,IDC,Micro\n")
    (root / "testing/lesion_annotations/test_003.xml").unlink()
    cohort = build(root)
    said = "\n".join(cohort.warnings)
    assert "reference.csv names 1 slides that are not on disk: test_005" in said
    assert "1 test slides are not in reference.csv and are left out: test_004" in said
    assert "test_002 is labelled normal but has the annotation test_002.xml, which is not used" in said
    assert "1 slides are labelled tumor but have no annotation: test_003" in said
    assert "normal_007 lies in the folder 'tumor', its label is normal" in said
    assert len(cohort.warnings) == 5
    rows = {row.slide_id: row for row in cohort.rows}
    assert "test_004" not in rows
    assert rows["test_002"].annotation is None
    assert rows["test_003"].label == "tumor"


@pytest.mark.parametrize(
    "text",
    [
        "- tumor_002.tif: duplicate of nothing\n- tumor_001.tif, test_003.tif: do not have exhaustive annotations\n",
        "Not exhaustively annotated are:\n\n- tumor_001\n- test_003\n\ntumor_002 is fine.\n",
    ],
)
def test_readme_names_slides_that_are_not_annotated_exhaustively(tmp_path: Path, text: str) -> None:
    root = official(tmp_path)
    write(root / "README.md", f"# CAMELYON16\n\n{text}")
    cohort = build(root)
    rows = {row.slide_id: row for row in cohort.rows}
    assert {name for name, row in rows.items() if row.label == "tumor" and row.annotation is None} == {"tumor_001", "test_003"}
    assert cohort.warnings == [
        "the README names 2 slides as not annotated exhaustively; they get no annotation: test_003, tumor_001"
    ]


def test_excluded_slides(tmp_path: Path) -> None:
    root = official(tmp_path)
    listed = manifest_command("camelyon16", root, "--exclude", "test_002", "--exclude", "Normal_001.tif")
    assert listed.result["slides"] == 11
    with pytest.raises(ManifestError, match=r"--exclude test_099: no such slide.*test_00"):
        build(root, exclude=["test_099"])


def test_another_table_of_labels_is_compared(tmp_path: Path) -> None:
    root = official(tmp_path)
    table = write(tmp_path / "other.csv", "filenames,tumor\ntest_001.tif.npy,False\ntumor_001.tif.npy,True\n")
    listed = manifest_command("camelyon16", root, "--labels", table)
    assert listed.warnings == ["test_001: labelled tumor, but normal in other.csv; the first is kept"]
    assert {r.slide_id: r.label for r in read_manifest(root / "manifest.csv").rows}["test_001"] == "tumor"


def test_annotations_that_are_still_packed(tmp_path: Path) -> None:
    touch(tmp_path, "training/normal/normal_001.tif", "training/tumor/tumor_001.tif", "training/lesion_annotations.zip")
    assert build(tmp_path).warnings == [
        "no slide has an annotation, so there are no instance labels; unpack lesion_annotations.zip"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("test_001,Tumor\ntest_001,Normal\n", "line 2: test_001 has two labels"),
        ("test_001,Maybe\n", "line 1: test_001 has no label"),
        ("test_001,Tumor\nslide 2,Tumor\n", "line 2: 'slide 2' is not a CAMELYON16 slide"),
        ("", "is empty"),
    ],
)
def test_unusable_reference(tmp_path: Path, text: str, message: str) -> None:
    root = official(tmp_path)
    write(root / "testing/reference.csv", text)
    with pytest.raises(ManifestError, match=message):
        build(root)


def test_what_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        build(tmp_path / "none")
    with pytest.raises(ManifestError, match="no CAMELYON16 slide"):
        build(tmp_path)
    root = official(tmp_path)
    touch(root, "copy/tumor_001.tif")
    with pytest.raises(ManifestError, match="are the same slide"):
        build(root)
    (root / "copy/tumor_001.tif").unlink()
    (root / "testing/reference.csv").unlink()
    with pytest.raises(ComelError, match=r"no reference\.csv"):
        build(root)


def real(name: str) -> Path:
    if not (REAL / name).is_file():
        pytest.skip(f"{name} is not in ../shared/data/cohorts")
    return REAL / name


def test_real_labels_disagree_on_one_slide() -> None:
    path = real("flamby_c16_labels.csv")
    reference, labels = read_labels(real("flamby_c16_reference.csv")), read_labels(path)
    assert len(reference) == 129
    assert len(labels) == 399
    assert compare_labels(reference, labels, path.name) == [
        "test_114: labelled tumor, but normal in flamby_c16_labels.csv; the first is kept"
    ]


def test_a_download_of_the_real_names(tmp_path: Path) -> None:
    """The whole cohort as empty files: the counts that the organisers publish, and the slide that sources disagree on."""
    path, reference = real("flamby_c16_labels.csv"), real("flamby_c16_reference.csv")
    labels = read_labels(path)
    touch(tmp_path, *(f"images/{name}.tif" for name in labels))
    touch(tmp_path, *(f"annotations/{name}.xml" for name, label in labels.items() if label == "tumor"))
    write(tmp_path / "reference.csv", reference.read_text())
    listed = manifest_command("camelyon16", tmp_path, "--labels", path)
    assert listed.warnings == [
        "test_114: labelled tumor, but normal in flamby_c16_labels.csv; the first is kept",
        "1 slides are labelled tumor but have no annotation: test_114",
    ]
    counts = listed.result["tasks"]["camelyon16"]
    assert counts["normal"]["test"] == 80
    assert counts["tumor"]["test"] == 49
    assert sum(counts["normal"].values()) == 159 + 80
    assert sum(counts["tumor"].values()) == 111 + 49
