"""Predictions as data: what they refuse, and that they survive JSON and tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from comel.bags.bag import TileGeometry
from comel.errors import ComelError
from comel.prediction.prediction import NO_TISSUE, NOTICE, Prediction, failed_row, prediction_row, read_prediction, write_table

GEOMETRY = TileGeometry(256, 0.5, 0.5, 0.2503, 0.2503, 40_000, 30_000, bounds_x=7, has_bounds=True, name="a.svs")


def predicted(**changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "slide_id": "slide-1",
        "mode": "class-incremental",
        "task": "breast",
        "label": "tumour",
        "classes": ("breast/normal", "breast/tumour", "lung/normal"),
        "probabilities": np.array([0.2, 0.7, 0.1]),
        "instance_scores": np.array([0.1, 0.5, 0.9], np.float32),
        "threshold": 0.5,
        "positive": True,
        "coords": np.array([[0, 0], [511, 0], [0, 511]]),
        "geometry": GEOMETRY,
        "model": {"run": "r1", "version": 3},
    }
    return Prediction(**{**values, **changes})


def same(first: Prediction, second: Prediction) -> bool:
    pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(Prediction)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@given(scores=arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 1, width=32)))
def test_json_gives_the_same_prediction_back(scores: np.ndarray) -> None:
    whole = predicted(instance_scores=scores, coords=np.arange(2 * len(scores)).reshape(-1, 2))
    assert same(whole, Prediction.from_dict(json.loads(json.dumps(whole.to_dict(), allow_nan=False))))


def test_file_round_trip_and_its_notice(tmp_path: Path) -> None:
    predicted(coords=None, geometry=None).save_json(tmp_path / "p.json")
    assert same(read_prediction(tmp_path / "p.json"), predicted(coords=None, geometry=None))
    assert json.loads((tmp_path / "p.json").read_text())["notice"] == NOTICE


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"slide_id": 1}', '{"instances": []}', "null"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ComelError, match="not a saved prediction"):
        read_prediction(tmp_path / "p.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComelError, match="no such file"):
        read_prediction(tmp_path / "p.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_scores": np.array([0.1, np.nan, 0.2], np.float32)},
        {"instance_scores": np.array([0.1, 1.5, 0.2], np.float32)},
        {"coords": np.zeros((2, 2), int)},
        {"probabilities": np.array([0.5, 0.5])},
        {"probabilities": np.array([0.5, np.nan, 0.5])},
        {"probabilities": None},
        {"label": None},
        {"label": "cyst"},
        {"threshold": 2.0},
        {"mode": "some-incremental"},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each case has its own text
        predicted(**changes)


def test_an_empty_bag_predicts_nothing() -> None:
    nothing = Prediction.nothing("s", mode="task-incremental", classes=("a/b",), threshold=0.5, model={"version": 1})
    assert (nothing.label, nothing.probabilities, nothing.confidence, nothing.positive) == (None, None, None, False)
    assert nothing.notes == (NO_TISSUE,)
    assert same(nothing, Prediction.from_dict(json.loads(json.dumps(nothing.to_dict()))))
    row = prediction_row(nothing)
    assert (row["label"], row["p:a/b"], row["instances"]) == (None, None, 0)


def test_confidence_is_of_the_predicted_class_also_where_classes_are_bare_labels() -> None:
    assert predicted().confidence == 0.7
    shared = predicted(mode="domain-incremental", classes=("normal", "tumour", "cyst"))
    assert (shared.predicted_class, shared.confidence) == ("tumour", 0.7)


def test_the_threshold_counts_as_positive() -> None:
    scores = np.array([0.3, 0.29999, 0.7], np.float32)
    assert predicted(instance_scores=scores, threshold=0.3).positive_instances == 2


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_has_a_row_a_slide_with_failures(tmp_path: Path, suffix: str) -> None:
    other = predicted(
        slide_id="slide-2", task="lung", label="x", classes=("lung/x", "lung/y"), probabilities=np.array([1.0, 0.0])
    )
    path = tmp_path / f"t.{suffix}"
    write_table(
        [failed_row("bad", ComelError("bad.svs: broken\nfile", "copy it")), *map(prediction_row, (predicted(), other))], path
    )
    table = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
    assert table.columns.tolist()[:5] == ["slide_id", "task", "label", "mode", "confidence"]
    assert table.columns.tolist()[-6:] == [
        "instances",
        "positive_instances",
        "distance",
        "out_of_distribution",
        "version",
        "error",
    ]
    assert [name for name in table if name.startswith("p:")] == [
        *(f"p:{name}" for name in predicted().classes),
        "p:lung/x",
        "p:lung/y",
    ]
    assert table["slide_id"].tolist() == ["bad", "slide-1", "slide-2"]
    assert table["error"][0] == "bad.svs: broken file; copy it"
    assert table["error"][1:].isna().all()
    assert table["confidence"][1:].tolist() == [0.7, 1.0]
    assert table["positive_instances"][1] == 2
    assert pd.isna(table["p:lung/x"][1])


def test_slides_of_cases_name_them(tmp_path: Path) -> None:
    rows = [prediction_row(predicted(), case_id="007"), failed_row("b", ComelError("b: broken"), case_id="007")]
    assert rows[1] == {"slide_id": "b", "case_id": "007", "error": "b: broken"}
    write_table([*rows, failed_row("c", ComelError("c: broken"))], tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv", dtype={"case_id": "string"})
    assert table.columns[:3].tolist() == ["slide_id", "case_id", "task"]
    assert table["case_id"].fillna("").tolist() == ["007", "007", ""]


def test_a_request_is_kept_beside_the_prediction(tmp_path: Path) -> None:
    predicted().save_json(tmp_path / "p.json", request="ab")
    assert json.loads((tmp_path / "p.json").read_text()) == {**predicted().to_dict(), "request": "ab"}
    assert same(read_prediction(tmp_path / "p.json"), predicted())


def test_a_table_of_no_rows_still_has_its_columns(tmp_path: Path) -> None:
    write_table([], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().startswith("slide_id,task,label,mode,confidence,instances")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComelError, match=r"\.csv or \.parquet"):
        write_table([], tmp_path / "t.xlsx")
    assert not list(tmp_path.iterdir())
