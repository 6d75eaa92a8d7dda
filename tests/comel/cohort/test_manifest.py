"""The manifest: what is read, and that every mistake is named with its row and column."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comel.cohort.manifest import read_manifest
from comel.errors import ManifestError

HEADER = "slide_id,path,label,task"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def message(path: Path, **options: object) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_columns_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "\ufeffslide_id, path ,label,task,case_id,patient_id,site,split,fold,annotation,mpp,stain",
        "007,slides/ä b.svs,Tumör,lung,c1,p1,Aarhus,train,0,ann/7.xml,0.25,HE",
        "",
        " s 2 ,slides/2.svs,normal,lung,,,,,1.0,,,",
    )
    manifest = read_manifest(path)
    first, second = manifest.rows
    assert (first.row, first.slide_id, first.label, first.fold, first.mpp) == (2, "007", "Tumör", 0, 0.25)
    assert first.path == tmp_path / "slides" / "ä b.svs"
    assert first.annotation == tmp_path / "ann" / "7.xml"
    assert (first.case, first.patient, first.site, first.split) == ("c1", "p1", "Aarhus", "train")
    assert (second.row, second.slide_id, second.fold, second.case, second.patient) == (4, "s 2", 1, "s 2", "s 2")
    assert (second.annotation, second.mpp, second.site, second.split) == (None, None, None, None)
    assert manifest.ignored == ("stain",)
    assert manifest.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_tasks_labels_and_selection_keep_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + ",split", "a,a,z,t2,train", "b,b,y,t1,test", "c,c,y,t2,test", "d,d,z,t2,test")
    manifest = read_manifest(path)
    assert manifest.tasks == ["t2", "t1"]
    assert manifest.labels("t2") == ["z", "y"]
    assert [row.slide_id for row in manifest.select(task="t2", split="test")] == ["c", "d"]
    assert [row.slide_id for row in manifest.select(split="test")] == ["b", "c", "d"]
    chosen = read_manifest(path, tasks=["t1", "t2"])
    assert chosen.tasks == ["t1", "t2"]
    assert len(chosen.rows) == 4
    assert read_manifest(path, tasks=["t1"]).tasks == ["t1"]
    assert manifest.of_tasks(["t1", "t2", "t1"]) == chosen
    assert chosen.digest == manifest.digest
    assert manifest.of_tasks(None) is manifest
    with pytest.raises(ManifestError, match=r"cohort\.csv has no slide of task 't3'; its tasks are t2, t1"):
        manifest.of_tasks(["t1", "t3"])
    assert "no slide of task 'liver'" in message(path, tasks=["liver"])


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        (",a.svs,x,t,,,", "slide_id", "is empty"),
        ("a,a.svs,,t,,,", "label", "is empty"),
        ("a,,x,t,,,", "path", "is empty"),
        ("a/b,a.svs,x,t,,,", "slide_id", "path separator"),
        ("a\\b,a.svs,x,t,,,", "slide_id", "path separator"),
        (".a,a.svs,x,t,,,", "slide_id", "starts with a dot"),
        ("a\x07b,a.svs,x,t,,,", "slide_id", "control characters"),
        ("é" * 101 + ",a.svs,x,t,,,", "slide_id", "200 bytes"),
        ("a,a\x00.svs,x,t,,,", "path", "control characters"),
        ("a,a.svs,x,../t,,,", "task", "path separator"),
        ("a,../a.svs,x,t,,,", "path", "--root"),
        ("a,b/../../a.svs,x,t,,,", "path", "--root"),
        ("a,/etc/passwd,x,t,,,", "path", "--root"),
        ("a,a.svs,x,t,../../a.xml,,", "annotation", "--root"),
        ("a,a.svs,x,t,,valid,", "split", "train, val, test"),
        ('a,a.svs,x,t,,,"1,0,25"', "mpp", "not a number"),
        ("a,a.svs,x,t,,,0", "mpp", "above 0"),
        ("a,a.svs,x,t,,,0 25", "mpp", "not a number"),
        ("a,a.svs,x,t,,,inf", "mpp", "not a number"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, line: str, column: str, said: str) -> None:
    text = message(written(tmp_path, HEADER + ",annotation,split,mpp", "ok,ok.svs,x,t,,train,0.5", line))
    assert text.startswith(f"cohort.csv row 3 column {column}: ")
    assert said in text


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("a,a,x,t,,,,", "a,b,x,t,,,,", "column slide_id: 'a' is already in row 2"),
        ("a,a,x,t,c,,,", "b,b,y,t,c,,,", "column label: case 'c' is 'y' here and 'x' in row 2"),
        ("a,a,x,t,c,,,", "b,b,x,u,c,,,", "column task: case 'c' is 'u' here and 't' in row 2"),
        ("a,a,x,t,c,p,,", "b,b,x,t,c,q,,", "column patient_id: case 'c' is 'q' here and 'p' in row 2"),
        ("a,a,x,t,,p,train,", "b,b,x,t,,p,test,", "column split: patient 'p' is 'test' here and 'train' in row 2"),
        ("a,a,x,t,c,,val,", "b,b,x,t,c,,test,", "column split: patient 'c' is 'test' here and 'val' in row 2"),
        ("a,a,x,t,,p,,0", "b,b,x,t,,p,,1", "column fold: patient 'p' is 1 here and 0 in row 2"),
        ("a,a,x,t,,p,,0", "b,b,x,t,,q,,-1", "column fold: '-1' is not a whole number"),
    ],
)
def test_rows_that_contradict_each_other_are_named(tmp_path: Path, first: str, second: str, said: str) -> None:
    text = message(written(tmp_path, HEADER + ",case_id,patient_id,split,fold", first, second))
    what, _, remedy = text.partition("; ")
    assert what == f"cohort.csv row 3 {said}" or what.startswith(f"cohort.csv row 3 {said} ")
    assert remedy.startswith("patients are compared by name: if they are two, ") == (": patient '" in said)


def test_many_mistakes_are_one_line(tmp_path: Path) -> None:
    text = message(written(tmp_path, HEADER, *(f"s{number},../s.svs,,t" for number in range(50))))
    assert text.startswith("cohort.csv row 2 column label: is empty; row 2 column path: ")
    assert text.endswith("; 97 more")
    assert text.count("row ") == 3


def test_a_root_allows_slides_elsewhere_and_links_may_point_anywhere(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "slides").symlink_to(tmp_path / "elsewhere")
    path = written(tmp_path / "lists", HEADER, f"a,{tmp_path}/slides/a.svs,x,t")
    assert "--root" in message(path)
    assert read_manifest(path, root=tmp_path).rows[0].path == tmp_path / "slides" / "a.svs"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        ((HEADER + "\n").encode(), "no rows"),
        (b"slide_id path label task\na b c d\n", "separate columns by commas"),
        (b"slide_id,path,label\na,b,c\n", "no column task"),
        ((HEADER + ",label\na,b,c,d,e\n").encode(), "the column label twice"),
        ((HEADER + "\na,b,c,d,e\n").encode(), "row 2 has more cells than the header"),
        ((HEADER + '\na,"b,c,d\n').encode(), "not a CSV"),
        ((HEADER + "\nä,b,c,d\n").encode("latin-1"), "not UTF-8"),
        ((HEADER + "\na,b,c,d\n").encode("utf-16")[:-1], "not UTF-8"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    assert said in message(path)


def test_missing_files(tmp_path: Path) -> None:
    assert "No such file" in message(tmp_path / "absent.csv")
    assert "directory" in message(tmp_path)


def test_trailing_commas_of_a_spreadsheet_are_no_mistake(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path, HEADER + ",mpp,,", "a,a,x,t", "b,b,x,t,,,,,")).ignored == ()


WORDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=6))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("manifest") / "cohort.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([HEADER.split(","), *cells])
    try:
        manifest = read_manifest(path)
    except ManifestError:
        assume(False)
    assert [(row.slide_id, row.label, row.task) for row in manifest.rows] == [
        (one, three, four) for one, _, three, four in cells
    ]
    assert all(row.path.is_relative_to(path.parent) for row in manifest.rows)


def test_a_name_that_the_user_has_named_is_no_missing_word(tmp_path: Path) -> None:
    """Only so written, and only as a label or a task."""
    path = tmp_path / "m.csv"
    path.write_text("slide_id,path,label,task,patient_id\na,a.svs,null,NA,null\nb,b.svs,mut,NA,null\n")
    rows = read_manifest(path, names={"null", "NA"}).rows
    assert [(row.label, row.task, row.patient_id) for row in rows] == [("null", "NA", None), ("mut", "NA", None)]
    with pytest.raises(ManifestError, match="row 2 column label: is empty"):
        read_manifest(path, names={"NULL", "NA"})


def test_a_header_in_the_middle_is_no_slide(tmp_path: Path) -> None:
    """As ``cat a.csv b.csv`` leaves it."""
    text = message(written(tmp_path, HEADER, "a,a.svs,x,t", HEADER, "b,b.svs,y,t"))
    assert text == (
        "cohort.csv row 3 is the header again, as where two tables were put together; "
        "take it out, or give the tables one by one"
    )
