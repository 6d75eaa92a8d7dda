"""Slides of one case: predicted as the bag that they are in training, with files and a row each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

import comel
from comel.bags.bag import read_bag, write_bag
from comel.cohort.bags import join_slides
from comel.errors import ComelError, FeatureMismatch
from comel.prediction.prediction import read_prediction
from comel.prediction.predictor import Predictor
from tests.comel.toys import CONTRACT, DIMENSION, Stream, make_bag, write_manifest

Cli = Callable[..., tuple[int, str, str]]


def manifest_of(stream: Stream, folder: Path, cases: dict[str, str]) -> Path:
    """A manifest of these slides with these cases, '' for none."""
    rows = [{**row, "case_id": cases[row["slide_id"]]} for row in stream.rows if row["slide_id"] in cases]
    for row in rows:
        row["label"] = "tumour"
    order = list(cases)
    return write_manifest(folder / "cases.csv", sorted(rows, key=lambda row: order.index(row["slide_id"])))


def test_the_model_is_asked_once_about_all_slides(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, bag: object, **named: object) -> object:
        asked.append(len(bag))  # type: ignore[arg-type]
        return predict(self, bag, **named)  # type: ignore[arg-type]

    manifest = manifest_of(toy_stream, tmp_path, {"colon-07": "A", "kidney-06": "", "colon-06": "A"})
    bags = {slide: read_bag(toy_stream.bag(slide)) for slide in ("colon-07", "colon-06", "kidney-06")}
    whole = Predictor.open(toy_run).predict(join_slides("A", [bags["colon-07"], bags["colon-06"]]))
    monkeypatch.setattr(Predictor, "predict", counted)
    results = comel.predict(toy_run, manifest, tmp_path / "out", bags=toy_stream.bags, quiet=True)
    assert asked == [len(bags["colon-07"]) + len(bags["colon-06"]), len(bags["kidney-06"])]
    first, alone, second = (result for result in results if not isinstance(result, ComelError))
    assert [first.slide_id, alone.slide_id, second.slide_id] == ["colon-07", "kidney-06", "colon-06"]
    for one in (first, second):
        assert one.predicted_class == whole.predicted_class == "colon/tumour"
        np.testing.assert_array_equal(one.probabilities, whole.probabilities)
        np.testing.assert_array_equal(one.coords, bags[one.slide_id].coords)
        assert one.geometry == bags[one.slide_id].geometry
    np.testing.assert_array_equal(np.concatenate([first.instance_scores, second.instance_scores]), whole.instance_scores)
    np.testing.assert_array_equal(np.concatenate([first.class_scores, second.class_scores]), whole.class_scores)
    assert first.notes == ("predicted as case A, together with colon-06",)
    assert alone.notes == ()
    saved = read_prediction(tmp_path / "out" / "colon-06.json")
    assert saved.to_dict() == second.to_dict()
    assert {path.suffix for path in (tmp_path / "out").glob("colon-06.*")} == {".json", ".png", ".geojson"}
    table = pandas.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.columns[:3]) == ["slide_id", "case_id", "task"]
    assert list(table["slide_id"]) == ["colon-07", "kidney-06", "colon-06"]
    assert list(table["case_id"].fillna("")) == ["A", "", "A"]
    assert table["confidence"][0] == table["confidence"][2] == pytest.approx(whole.confidence)


def test_a_slide_without_tissue_has_its_cases_prediction(toy_run: Path, toy_stream: Stream) -> None:
    predictor, bag = Predictor.open(toy_run), read_bag(toy_stream.bag("colon-07"))
    empty = make_bag("empty", np.ones((0, DIMENSION)))
    for order in ([empty, bag], [bag, empty]):
        found = {one.slide_id: one for one in predictor.predict_case("A", order)}
        assert found["empty"].label == found["colon-07"].label == "tumour"
        assert len(found["empty"].instance_scores) == 0
        assert found["empty"].notes == ("no tissue", "predicted as case A, together with colon-07")
        alone = predictor.predict(bag)
        np.testing.assert_allclose(found["colon-07"].instance_scores, alone.instance_scores, atol=1e-5)
    nothing = predictor.predict_case("A", [empty, replace(empty, slide_id="other")])
    assert [one.label for one in nothing] == [None, None]
    assert nothing[0].notes[0] == "no tissue"


def test_features_of_another_kind_are_found_in_any_slide(toy_run: Path, toy_stream: Stream) -> None:
    odd = make_bag("odd", np.ones((3, DIMENSION)), contract=replace(CONTRACT, encoder="uni"))
    with pytest.raises(FeatureMismatch, match="odd: encoder uni instead of toy"):
        Predictor.open(toy_run).predict_case("A", [read_bag(toy_stream.bag("colon-07")), odd])


def test_a_case_with_a_bad_slide_fails_whole(toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    cases = {"colon-07": "A", "colon-06": "A", "colon-15": "A", "colon-05": "B", "colon-04": "B", "kidney-06": ""}
    manifest = manifest_of(toy_stream, tmp_path, cases)
    bags = tmp_path / "bags"
    bags.mkdir()
    for slide in ("colon-07", "colon-05", "kidney-06"):
        (bags / f"{slide}.h5").write_bytes(toy_stream.bag(slide).read_bytes())
    write_bag(bags / "colon-04.h5", make_bag("x", np.ones((3, DIMENSION)), contract=replace(CONTRACT, encoder="uni")))
    code, out, said = comel_cli("predict", toy_run, manifest, "--bags", bags, "--out", tmp_path / "out", "--json")
    assert (code, said) == (1, "")
    told = {entry["slide_id"]: entry for entry in json.loads(out)}
    assert list(told) == list(cases)
    for slide in ("colon-06", "colon-15"):
        assert f"no features of slide {slide}" in told[slide]["error"]
    assert told["colon-07"] == {
        "slide_id": "colon-07",
        "case_id": "A",
        "error": "colon-07: not predicted, because slide colon-06 of its case A cannot be used; "
        "correct that slide, or take it out of the manifest",
    }
    assert "encoder uni instead of toy" in told["colon-04"]["error"]
    assert "slide colon-04 of its case B cannot be used" in told["colon-05"]["error"]
    assert told["kidney-06"]["error"] is None
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"kidney-06.json"}
