"""Notes on a manifest: unused columns, and names that look alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from comel.cohort.checks import doubtful_labels
from comel.cohort.classes import Head
from comel.cohort.config import DataConfig
from comel.cohort.manifest import read_manifest
from comel.cohort.notes import manifest_notes
from comel.cohort.sources.common import check_labels, slide_row
from comel.cohort.tasks import TaskData, load_tasks
from comel.errors import ManifestError


def manifest(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_that_are_not_used_are_named_once(tmp_path: Path) -> None:
    path = manifest(tmp_path, "slide_id,path,label,task,stain,Patient_ID,,\na,a.svs,x,t,HE,1,,\nb,b.svs,y,t,HE,2,,\n")
    assert manifest_notes(path) == ["m.csv: columns stain, Patient_ID are not used"]
    assert manifest_notes(manifest(tmp_path, "slide_id,path,label,task,stain\na,a,x,t,\n")) == [
        "m.csv: column stain is not used"
    ]
    assert manifest_notes(manifest(tmp_path, "slide_id,path,label,task\na,a,x,t\n")) == []
    assert manifest_notes(tmp_path / "none.csv") == []


@pytest.mark.parametrize("column", ["slide_id", "case_id", "patient_id", "site", "task"])
def test_names_that_look_alike_are_named_by_column(tmp_path: Path, column: str) -> None:
    def row(number: int, name: str) -> str:
        cells = {"slide_id": f"s{number}", "path": "a", "label": "x", "task": "t", "case_id": f"c{number}"}
        cells |= {"patient_id": f"p{number}", "site": "NA", column: name}
        return ",".join(cells.values())

    header = "slide_id,path,label,task,case_id,patient_id,site"
    path = manifest(tmp_path, "\n".join([header, row(1, "P 7"), row(2, "p\u00a07"), row(3, "1"), row(4, "01"), row(5, "NA")]))
    (note,) = [note for note in manifest_notes(path) if f"column {column}:" in note]
    assert "'P 7' and 'p\\xa07'" in note
    assert "(and 1 more such pairs)" in note
    assert note.isprintable()


def test_labels_that_look_alike_get_the_note_of_letter_case() -> None:
    labels = ("normal", "tumor", "Tumor", "tumo\u200br", "1", "1.0")
    task = TaskData("t", Head("t", labels, "normal"), (), (), ())
    assert doubtful_labels([task], "normal") == [
        "t: 'tumor' and 'Tumor' are two labels; correct the manifest if they are one",
        "t: 'tumor' and 'tumo\\u200br' are two labels; correct the manifest if they are one",
        "t: '1' and '1.0' are two labels; correct the manifest if they are one",
    ]
    rows = [slide_row(Path(f"{i}.svs"), label, "t") for i, label in enumerate(labels)]
    assert any("are two labels (and 2 more such pairs)" in warning for warning in check_labels(rows))


def test_a_label_of_the_settings_in_another_unicode_form_is_told_from_the_manifests(tmp_path: Path) -> None:
    path = manifest(tmp_path, "slide_id,path,label,task\na,a.svs,normal,t\nb,b.svs,Tumo\u0308r,t\n")
    config = DataConfig(manifest=path, bags=tmp_path, labels={"t": ["normal", "Tum\u00f6r"]})
    with pytest.raises(ManifestError, match=r"data\.labels has 'Tum\\xf6r', the manifest 'Tumo\\u0308r'"):
        load_tasks(read_manifest(path), config)
