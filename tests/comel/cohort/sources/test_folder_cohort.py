from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comel.cohort.manifest import OPTIONAL, REQUIRED, read_manifest
from comel.cohort.sources.folder import build
from comel.errors import ManifestError
from tests.comel.cohort.sources.trees import manifest_command, touch


def test_tasks_and_labels_are_folders(tmp_path: Path) -> None:
    touch(tmp_path, "colon/normal/a.svs", "colon/adenoma/deep/b.SVS", "kidney/normal/c.tif", "kidney/tumour/d.mrxs")
    touch(tmp_path, "kidney/tumour/d/Data0001.dat", "kidney/normal/notes.txt", "kidney/normal/.e.svs")
    listed = manifest_command("folder", tmp_path)
    assert listed.warnings == []
    rows = read_manifest(tmp_path / "manifest.csv").rows
    assert [(row.task, row.label, row.slide_id) for row in rows] == [
        ("colon", "adenoma", "b"),
        ("colon", "normal", "a"),
        ("kidney", "normal", "c"),
        ("kidney", "tumour", "d"),
    ]
    assert [row.path.is_file() for row in rows] == [True] * 4
    assert listed.result["tasks"]["kidney"] == {"normal": {"-": 1}, "tumour": {"-": 1}}


def test_a_folder_of_dicom_files_is_one_slide(tmp_path: Path) -> None:
    touch(tmp_path, "colon/normal/1.2.840.1/level-0.dcm", "colon/normal/1.2.840.1/level-1.DCM", "colon/tumour/b/x.dcm")
    rows = build(tmp_path).rows
    assert [(row.slide_id, row.label, row.path) for row in rows] == [
        ("1.2.840.1", "normal", tmp_path / "colon/normal/1.2.840.1"),
        ("b", "tumour", tmp_path / "colon/tumour/b"),
    ]
    touch(tmp_path, "colon/normal/loose.dcm")
    with pytest.raises(ManifestError, match="does not lie in the folder of a label"):
        build(tmp_path)


def test_dicom_is_known_by_its_content(tmp_path: Path) -> None:
    touch(tmp_path, "colon/normal/s1/notes.txt", "colon/tumour/s2/x.dcm", "colon/tumour/DICOMDIR", "colon/tumour/s3/plain.0")
    for name in ("1.2.840.99.0", "1.2.840.99.1", "IM0001"):
        (tmp_path / "colon/normal/s1" / name).write_bytes(bytes(128) + b"DICM" + bytes(9))
    (tmp_path / "colon/tumour/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    cohort = build(tmp_path)
    assert [(row.slide_id, row.path) for row in cohort.rows] == [
        ("s1", tmp_path / "colon/normal/s1"),
        ("s2", tmp_path / "colon/tumour/s2"),
    ]
    assert cohort.left_out == {"without suffix": 1, ".0": 1}


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    touch(
        tmp_path, "t/a/s1.svs", "t/b/s2.svs", "t/b/s2.xml", "t/b/q.qptiff", "t/a/m.mrxs", "t/a/m/Data0.dat", "t/a/m/Index.dat"
    )
    touch(tmp_path, "t/a/v.vms", "t/a/v.jpg", "t/b/stray.xml", "t/b/table.csv", "t/b/x.vsi", "t/b/.hidden.png")
    for name in ("t/a/i.png", "t/a/j.jpg", "t/b/k.PNG"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    cohort = build(tmp_path)
    assert [row.slide_id for row in cohort.rows] == ["m", "s1", "v", "s2"]
    assert cohort.left_out == {".png": 2, ".qptiff": 1, ".xml": 1, ".vsi": 1}
    listed = manifest_command("folder", tmp_path)
    assert listed.result["left_out"] == cohort.left_out
    assert listed.warnings == ["left out, not slides: 2 .png, 1 .qptiff, 1 .xml, 1 .vsi"]


def test_pictures_are_the_slides_of_a_folder_that_has_no_others(tmp_path: Path) -> None:
    touch(tmp_path, "t/a/broken.png")
    for name in ("t/a/i.png", "t/a/j.JPG", "t/b/k.jpeg", "t/b/k_mask.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" if "png" in name else b"\xff\xd8\xff\xe0")
    cohort = build(tmp_path)
    assert [(row.slide_id, row.label) for row in cohort.rows] == [("i", "a"), ("j", "a"), ("k", "b")]
    assert cohort.rows[2].annotation == tmp_path / "t/b/k_mask.png"
    assert cohort.warnings == ["3 pictures are the slides: fill in their um/px, column 'mpp'"]
    assert cohort.left_out == {".png": 1}


def test_one_task(tmp_path: Path) -> None:
    touch(tmp_path, "normal/a.svs", "tumour/b.svs")
    rows = build(tmp_path, task="skin").rows
    assert {(row.task, row.label) for row in rows} == {("skin", "normal"), ("skin", "tumour")}
    with pytest.raises(ManifestError, match=r"a\.svs does not lie in the folder of a label; .*--task NAME"):
        build(tmp_path)


def test_annotations_have_the_slides_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"t/tumour/{name}.tif" for name in "abcde"), "t/normal/f.tif", "t/normal/f.png")
    touch(tmp_path, "t/tumour/a.xml", "annotations/b.geojson", "t/tumour/c_mask.tif", "masks/d_mask.png", "masks/c_mask.png")
    cohort = build(tmp_path)
    assert cohort.warnings == []
    found = {row.slide_id: row.annotation and row.annotation.relative_to(tmp_path).as_posix() for row in cohort.rows}
    assert found == {
        "a": "t/tumour/a.xml",
        "b": "annotations/b.geojson",
        "c": "t/tumour/c_mask.tif",
        "d": "masks/d_mask.png",
        "e": None,
        "f": None,
    }
    touch(tmp_path, "t/tumour/a.geojson")
    assert build(tmp_path).warnings == [
        f"a.tif has 2 annotations: {tmp_path}/t/tumour/a.geojson is used, {tmp_path}/t/tumour/a.xml not"
    ]


def test_patients_by_a_regular_expression(tmp_path: Path) -> None:
    touch(tmp_path, "t/n/P01_1.svs", "t/n/P01_2.svs", "t/p/P02_1.svs", "t/p/other.svs")
    cohort = build(tmp_path, patient_regex=r"^(P\d+)_")
    assert {row.slide_id: row.patient_id for row in cohort.rows} == {
        "P01_1": "P01", "P01_2": "P01", "P02_1": "P02", "other": None
    }  # fmt: skip
    assert cohort.warnings == ["--patient-regex finds no patient in 1 names: other.svs"]
    assert {row.patient_id for row in build(tmp_path, patient_regex=r"P\d+").rows} == {"P01", "P02", None}
    with pytest.raises(ManifestError, match="--patient-regex"):
        build(tmp_path, patient_regex="(")


def test_a_single_label_is_warned_about(tmp_path: Path) -> None:
    touch(tmp_path, "t/tumour/a.svs")
    assert build(tmp_path).warnings == ["task 't' has the label 'tumour' only; training needs two labels per task"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "disk", "a.svs")
    root = tmp_path / "cohort"
    touch(root, "t/normal/b.svs")
    (root / "t/tumour").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(root)
    assert [(row.label, row.slide_id) for row in build(root).rows] == [("normal", "b"), ("tumour", "a")]


def test_paths_start_from_the_manifest_or_from_the_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data" / "mine"
    touch(root, "t/normal/a.svs", "t/tumour/b.svs", "t/tumour/b.xml")
    monkeypatch.chdir(tmp_path)

    def cells(out: str) -> tuple[list[tuple[str, str]], dict[str, object]]:
        listed = manifest_command("folder", "data/mine", "--out", out)
        with open(out, newline="") as stream:
            reader = csv.DictReader(stream)
            assert tuple(reader.fieldnames or ()) == REQUIRED + OPTIONAL
            return [(row["path"], row["annotation"]) for row in reader], listed.result

    above, said = cells("data/list.csv")
    assert above == [("mine/t/normal/a.svs", ""), ("mine/t/tumour/b.svs", "mine/t/tumour/b.xml")]
    assert said["root"] == str(tmp_path / "data")
    elsewhere, said = cells("lists/list.csv")
    assert elsewhere == [("t/normal/a.svs", ""), ("t/tumour/b.svs", "t/tumour/b.xml")]
    assert said["root"] == str(root)
    rows = read_manifest(tmp_path / "lists/list.csv", root=root).rows
    assert all(row.path.is_file() for row in rows)


def test_nothing_is_overwritten_unasked_or_half_written(tmp_path: Path) -> None:
    touch(tmp_path, "t/normal/a.svs", "t/tumour/b.svs")
    out = tmp_path / "manifest.csv"
    manifest_command("folder", tmp_path)
    before = out.read_bytes()
    touch(tmp_path, "t/tumour/c.svs")
    with pytest.raises(ManifestError, match=r"manifest\.csv exists; .*--force"):
        manifest_command("folder", tmp_path)
    assert out.read_bytes() == before
    assert manifest_command("folder", tmp_path, "--force").result["slides"] == 3
    touch(tmp_path, "t/tumour/.hidden", "t/tu\tmour/d.svs")
    with pytest.raises(ManifestError, match=r"^manifest\.csv row 3 column label: .*control characters"):
        manifest_command("folder", tmp_path, "--force")
    assert [row.slide_id for row in read_manifest(out).rows] == ["a", "b", "c"]
    assert not list(tmp_path.glob(".partial*"))


def test_two_slides_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "t/normal/a.svs", "u/tumour/a.svs")
    with pytest.raises(ManifestError, match=r"t/normal/a\.svs and .*u/tumour/a\.svs have the same name"):
        manifest_command("folder", tmp_path)


def test_no_slide(tmp_path: Path) -> None:
    touch(tmp_path, "t/normal/a.jpg")
    with pytest.raises(ManifestError, match="no slide"):
        build(tmp_path)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 4), st.integers(4, 9), st.integers(0, 3), st.integers(0, 99))
def test_folds_share_no_patient(
    tmp_path_factory: pytest.TempPathFactory, folds: int, patients: int, more: int, seed: int
) -> None:
    root = tmp_path_factory.mktemp("folds")
    for label in ("normal", "tumour"):
        for patient in range(patients):
            touch(root, *(f"t/{label}/{label[0]}{patient}_{i}.svs" for i in range(1 + (patient + more) % 3)))
    manifest_command("folder", root, "--patient-regex", "^([^_]+)", "--folds", folds, "--seed", seed)
    rows = read_manifest(root / "manifest.csv").rows
    folds_of = defaultdict(set)
    for row in rows:
        folds_of[row.patient].add(row.fold)
    assert all(len(found) == 1 for found in folds_of.values())
    assert {row.fold for row in rows} == set(range(folds))
