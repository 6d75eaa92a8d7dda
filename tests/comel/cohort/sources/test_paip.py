from __future__ import annotations

from pathlib import Path

import pytest

from comel.cohort.manifest import read_manifest
from comel.cohort.sources.paip import build
from comel.errors import ManifestError
from tests.comel.cohort.sources.trees import manifest_command, touch, write


def imagescope(layers: int = 1) -> str:
    region = '<Region><Vertices><Vertex X="0" Y="0"/><Vertex X="9" Y="0"/><Vertex X="9" Y="9"/></Vertices></Region>'
    filled = "".join(f'<Annotation Id="{i}"><Regions>{region}</Regions></Annotation>' for i in range(1, layers + 1))
    return f'<Annotations>{filled}<Annotation Id="9"><Regions/></Annotation></Annotations>'


def downloads(root: Path) -> Path:
    """Two organs as their downloads lie when they are unpacked, and two slides without a tumour each."""
    for name in ("01_01_0083", "01_01_0085"):
        touch(root, f"liver/{name}/{name}.SVS", f"liver/{name}/{name}_viable.tif", f"liver/{name}/{name}_whole.tif")
        write(root / f"liver/{name}/{name}.xml", imagescope())
    touch(root, "liver/normal/n1.svs", "liver/Normal/n2.svs", "colon/normal/n3.svs", "colon/normal/n4.svs")
    for name in ("training_data_01", "training_data_02"):
        touch(root, f"colon/WSI/{name}.svs")
        write(root / f"colon/annotation/{name}.xml", imagescope())
    return root


def test_folders_are_organs(tmp_path: Path) -> None:
    root = downloads(tmp_path)
    listed = manifest_command("paip", root)
    assert listed.warnings == []
    rows = {row.slide_id: row for row in read_manifest(root / "manifest.csv").rows}
    assert {name: (row.task, row.label) for name, row in rows.items()} == {
        "01_01_0083": ("liver", "tumor"),
        "01_01_0085": ("liver", "tumor"),
        "n1": ("liver", "normal"),
        "n2": ("liver", "normal"),
        "n3": ("colon", "normal"),
        "n4": ("colon", "normal"),
        "training_data_01": ("colon", "tumor"),
        "training_data_02": ("colon", "tumor"),
    }
    assert rows["01_01_0083"].annotation == root / "liver/01_01_0083/01_01_0083.xml"
    assert rows["training_data_02"].annotation == root / "colon/annotation/training_data_02.xml"
    assert rows["n1"].annotation is None


def test_suffix_chooses_among_the_annotations(tmp_path: Path) -> None:
    root = downloads(tmp_path)
    (root / "liver/01_01_0085/01_01_0085_viable.tif").unlink()
    manifest_command("paip", root, "--suffix", "_viable", "--suffix", "_whole")
    found = {row.slide_id: row.annotation for row in read_manifest(root / "manifest.csv").rows}
    assert found["01_01_0083"] == root / "liver/01_01_0083/01_01_0083_viable.tif"
    assert found["01_01_0085"] == root / "liver/01_01_0085/01_01_0085_whole.tif"
    assert found["training_data_01"] is None


def test_one_organ_with_labels_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "sub/b.svs")
    table = write(tmp_path / "labels.csv", "slide,label\na.svs,benign\nsub/b,cancer\n")
    cohort = build(tmp_path, task="prostate", labels=table, negative="benign", positive="cancer", annotated=False)
    assert [(row.task, row.slide_id, row.label) for row in cohort.rows] == [
        ("prostate", "a", "benign"),
        ("prostate", "b", "cancer"),
    ]
    assert cohort.warnings == []
    write(table, "a.svs,benign\n")
    with pytest.raises(ManifestError, match=r"labels\.csv: does not list b"):
        build(tmp_path, task="prostate", labels=table)
    write(table, "a.svs,benign\na,cancer\n")
    with pytest.raises(ManifestError, match="line 2: a has two labels"):
        build(tmp_path, task="prostate", labels=table)


def test_what_sources_do_not_agree_on(tmp_path: Path) -> None:
    root = downloads(tmp_path)
    write(root / "colon/normal/n3.xml", imagescope())
    write(root / "colon/annotation/training_data_01.xml", imagescope(3))
    (root / "colon/annotation/training_data_02.xml").unlink()
    cohort = build(root)
    assert [line for line in cohort.warnings if line.startswith("colon")] == [
        "colon: 1 slides of tumor have no annotation: training_data_02.svs",
        "colon: 1 slides of normal have an annotation, not used: n3.svs",
    ]
    assert "1 XML files draw on several layers" in cohort.warnings[2]
    assert "--no-annotations" in cohort.warnings[2]
    assert "training_data_01.xml" in cohort.warnings[2]
    assert len(cohort.warnings) == 3
    listed = manifest_command("paip", root, "--no-annotations")
    assert listed.warnings == []
    assert listed.result["annotated"] == 0


def test_challenge_slides_alone_make_no_task(tmp_path: Path) -> None:
    touch(tmp_path, "liver/a.svs", "liver/b.svs")
    listed = manifest_command("paip", tmp_path, "--no-annotations")
    assert listed.warnings == ["task 'liver' has the label 'tumor' only; training needs two labels per task"]


def test_what_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no slide"):
        build(tmp_path)
    touch(tmp_path, "a.svs")
    with pytest.raises(ManifestError, match=r"lies in no organ's folder; .*--task"):
        build(tmp_path)
    write(tmp_path / "a.xml", '<!DOCTYPE x [<!ENTITY e "e">]><Annotations>&e;</Annotations>')
    with pytest.raises(ManifestError, match=r"a\.xml: not usable XML"):
        build(tmp_path, task="liver")
