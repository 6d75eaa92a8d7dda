"""What ``comel predict`` takes: single paths, folders of bags, DICOM folders; and options that do not fit them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import comel
from comel.app.predict.inputs import Input, by_case, find_inputs
from comel.app.schemas import PredictOptions
from comel.errors import ComelError
from tests.comel.toys import Stream, tree, write_manifest

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_path_is_one_input(toy_run: Path, toy_stream: Stream, tmp_path: Path, kind: type) -> None:
    [result] = comel.predict(str(toy_run), kind(toy_stream.bag("colon-07")), str(tmp_path), quiet=True)  # type: ignore[arg-type]
    assert not isinstance(result, ComelError)
    assert result.slide_id == "colon-07"


@pytest.mark.parametrize("layout", [".", "h5_files", "features_toy"])
def test_a_folder_of_feature_files_is_its_bags(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli, layout: str
) -> None:
    folder = tmp_path / "bags"
    (folder / layout).mkdir(parents=True)
    for slide in ("colon-07", "kidney-06"):
        shutil.copy(toy_stream.bag(slide), folder / layout)
    code, out, said = comel_cli("predict", toy_run, folder, "--out", tmp_path / "out", "--json")
    assert (code, said) == (0, "")
    assert [entry["slide_id"] for entry in json.loads(out)] == ["colon-07", "kidney-06"]


def test_a_folder_of_dicom_files_is_a_slide(tmp_path: Path) -> None:
    (tmp_path / "case" / "more").mkdir(parents=True)
    (tmp_path / "case" / "1.DCM").touch()
    assert find_inputs([tmp_path / "case"], PredictOptions(mpp=0.5)) == [Input("case", slide=tmp_path / "case", mpp=0.5)]


def test_a_folder_of_dicom_files_without_their_suffix_is_a_slide(tmp_path: Path) -> None:
    (tmp_path / "1.2.840.99.0").write_bytes(bytes(128) + b"DICM")
    assert find_inputs([tmp_path], PredictOptions()) == [Input(tmp_path.name, slide=tmp_path)]


def test_a_folder_of_neither_says_so(toy_run: Path, tmp_path: Path, comel_cli: Cli) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").touch()
    code, _, said = comel_cli("predict", toy_run, tmp_path / "slides", "--out", tmp_path / "out")
    assert code == 2
    assert "slides: no feature file; give .h5 or .pt files or a folder of them; or the folder of one DICOM slide" in said


def test_slides_of_one_case_are_found_within_their_manifest(tmp_path: Path) -> None:
    rows = [("a", "x"), ("b", ""), ("c", "x"), ("d", "")]
    cells = [{"slide_id": slide, "path": f"{slide}.tif", "label": "l", "task": "t", "case_id": case} for slide, case in rows]
    first = write_manifest(tmp_path / "1.csv", cells)
    second = write_manifest(tmp_path / "2.csv", [{**cells[0], "slide_id": "e"}])
    found = by_case(find_inputs([first, second], PredictOptions()))
    assert [[entry.name for entry in case] for case in found] == [["a", "c"], ["b"], ["d"], ["e"]]


def test_options_that_do_not_fit_are_refused_before_any_work(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: object, **named: object) -> None:
        raise AssertionError("no slide may be read")

    monkeypatch.setattr("pipelines.extraction.contract.ContractReader.extract", work)
    bag, slides = toy_stream.bag("colon-07"), [tmp_path / "a.tif", tmp_path / "b.tif"]
    for slide in slides:
        slide.touch()
    for words, said in [
        ([*slides, "--task", "nope"], "the model has no task 'nope'; it knows colon, kidney"),
        ([*slides, "--width", 100], "a map of 100 px has no room for its caption; give a width of at least 256"),
        ([*slides, "--mpp", 0], "--mpp 0: no slide has such a resolution (0.05 to 20); correct --mpp"),
        ([slides[0], "--mpp", 250], "--mpp 250: no slide has such a resolution (0.05 to 20); correct --mpp"),
        ([bag, "--mpp", 2], f"--mpp applies to slides, and has no effect on {bag}; leave it out: a bag has its own"),
        (
            [toy_stream.manifest, "--mpp", 2],
            f"--mpp applies to slides, and has no effect on {toy_stream.manifest}; state it in the column 'mpp'",
        ),
        ([bag, "--slide", tmp_path / "none.tif"], f"{tmp_path / 'none.tif'}: no such file; check --slide"),
    ]:
        code, out, told = comel_cli("predict", toy_run, *words, "--out", tmp_path / "out", "-q")
        assert (code, out, told) == (2, "", f"comel: {said}\n")
        assert tree(tmp_path / "out") == {}
