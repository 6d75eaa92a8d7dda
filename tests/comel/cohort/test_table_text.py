"""Manifests as Excel, R, pandas and LibreOffice write them."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.cohort.manifest import OPTIONAL, REQUIRED, read_manifest
from comel.cohort.sources.common import read_table
from comel.cohort.table_text import is_missing, lines_of
from comel.errors import ManifestError

HEADER = "slide_id,path,label,task"
WORDS = ("NA", "N/A", "n/a", "nan", "NaN", "-nan", "<NA>", "null", "NULL", "None", "NaT", "#N/A", "#NV", "#DIV/0!", "#REF!")
MORE_WORDS = ("\\N", "1.#QNAN", ".", "--", "'--", "[Not Available]", "#N/A N/A", "NA_character_", "\u200b", "\u00a0", "   ")


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def message(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("word", [*WORDS, *MORE_WORDS])
def test_a_word_for_nothing_is_an_empty_cell_in_every_column(tmp_path: Path, word: str) -> None:
    columns = REQUIRED + OPTIONAL
    rows = [f"s{i},s{i}.svs,{('x', 'y')[i % 2]},t," + ",".join([word] * len(OPTIONAL)) for i in range(4)]
    manifest = read_manifest(written(tmp_path / "m.csv", "\n".join([",".join(columns), *rows])))
    assert len({row.case for row in manifest.rows}) == len({row.patient for row in manifest.rows}) == 4
    assert all(getattr(row, name) is None for row in manifest.rows for name in OPTIONAL)
    for column in REQUIRED:
        cells = {"slide_id": "a", "path": "a.svs", "label": "x", "task": "t"} | {column: word}
        said = message(written(tmp_path / "m.csv", f"{HEADER}\nok,ok.svs,x,t\n{','.join(cells.values())}\n"))
        assert said.startswith(f"m.csv row 3 column {column}: is empty")
        assert not word.strip() or f"({word.strip()!r} means" in said


@pytest.mark.parametrize("word", ["nano", "NA1", "none seen", "nullipara", "-", "+", "0", "unknown", "Nan's", "n.a", "#1"])
def test_other_words_are_names(tmp_path: Path, word: str) -> None:
    assert not is_missing(word)
    manifest = read_manifest(written(tmp_path / "m.csv", f"{HEADER},patient_id\ns1,a.svs,{word},t,{word}\n"))
    assert (manifest.rows[0].label, manifest.rows[0].patient_id) == (word, word)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("top", ["", "sep={}\n", '"SEP={}"\r\n', "\n\n{}{}{}\n"])
def test_encodings_separators_and_tops(tmp_path: Path, encoding: str, separator: str, top: str) -> None:
    lines = ["slide_id,path,label,task,mpp", '"a, b; c|\td",ä.svs,x,t,0.25', "two,2.svs,y,t,"]
    first, second, third = (line.split(",") for line in (lines[0], "A,ä.svs,x,t,0.25", lines[2]))
    second[0] = '"a, b; c|d"'
    text = top.format(separator, separator, separator) + "\r\n".join(separator.join(cells) for cells in (first, second, third))
    manifest = read_manifest(written(tmp_path / "m.csv", text, encoding))
    one, two = manifest.rows
    assert (one.slide_id, one.path.name, one.label, one.mpp) == ("a, b; c|d", "ä.svs", "x", 0.25)
    assert (two.slide_id, two.label, two.mpp) == ("two", "y", None)
    assert [row.row for row in manifest.rows] == ([5, 6] if top.startswith("\n") else [2, 3])


def test_a_decimal_comma_is_a_number(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path / "m.csv", "slide_id;path;label;task;mpp\na;a.svs;x;t;0,2528\n"))
    assert manifest.rows[0].mpp == 0.2528


def test_a_header_may_hold_signs_that_do_not_show(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path / "m.csv", "\u200bslide_id,path\u00a0, label ,task\ufeff\na,a.svs,x,t\n"))
    assert manifest.ignored == ()


def test_files_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert "workbook (.xlsx" in message(path)
    assert message(path).endswith("open it and save it as 'CSV UTF-8 (comma delimited)'")
    for content, said in (
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(64), "old Excel workbook"),
        (gzip.compress(b"slide_id,path,label,task\n"), "compressed"),
        (b"PAR1" + bytes(20), "Parquet"),
        (b"%PDF-1.7\n", "PDF"),
        (b"  <html><table><tr><td>slide_id", "web page"),
        (b'<?xml version="1.0"?><Workbook/>', "web page or XML"),
        ("slide_id,path,label,task\na,a,Tumör,t\n".encode("latin-1"), "not UTF-8"),
    ):
        path.write_bytes(content)
        assert said in message(path), content


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    said = "read"
    try:
        lines_of(path, path.read_bytes())
    except ManifestError as error:
        said = str(error)
    assert "\n" not in said


def test_clinical_tables_may_be_of_any_separator_and_have_remarks(tmp_path: Path) -> None:
    for separator in ",;\t":
        text = separator.join(("# a", "b")) + "\n\n" + "\n".join(separator.join(row) for row in (("p", "s"), ("1", "#N/A")))
        assert read_table(written(tmp_path / "t.tsv", text)) == [["p", "s"], ["1", ""]]
