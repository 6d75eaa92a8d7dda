"""A prediction that was interrupted, or is asked for once more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

import comel
from comel.bags.bag import read_bag, write_bag
from comel.errors import ComelError
from comel.prediction.prediction import read_prediction
from comel.prediction.predictor import Predictor
from tests.comel.toys import Stream, make_bag, tree, write_manifest

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bags that the model is asked about; it is interrupted at a bag whose name is in ``asked.stop``."""

    class Asked(list[str]):
        stop = ""

    names, predict = Asked(), Predictor.predict

    def recorded(self: Predictor, bag: Any, **named: Any) -> Any:
        if bag.slide_id == names.stop:
            raise KeyboardInterrupt
        names.append(bag.slide_id)
        return predict(self, bag, **named)

    monkeypatch.setattr(Predictor, "predict", recorded)
    return names


def test_an_interrupted_prediction_goes_on_where_it_stopped(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli, asked: Any
) -> None:
    slides = ["colon-07", "colon-06", "kidney-06"]
    words = ["predict", toy_run, *map(toy_stream.bag, slides), "--out", tmp_path / "out", "-q"]
    asked.stop = "colon-06"
    code, _, said = comel_cli(*words)
    assert (code, said) == (130, "comel: interrupted; the same command continues where it stopped\n")
    assert list(pandas.read_csv(tmp_path / "out" / "predictions.csv")["slide_id"]) == ["colon-07"]
    first = tree(tmp_path / "out")
    asked.stop = ""
    code, out, said = comel_cli(*words)
    assert (code, said) == (0, "")
    assert asked == slides
    assert "colon-07: colon/tumour (" in out
    assert list(pandas.read_csv(tmp_path / "out" / "predictions.csv")["slide_id"]) == slides
    second = tree(tmp_path / "out")
    assert all(second[name] == content for name, content in first.items() if name != "predictions.csv")
    assert comel_cli(*words)[0] == 0
    assert asked == slides
    assert tree(tmp_path / "out") == second


def test_what_was_asked_otherwise_is_predicted_anew(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, asked: list[str]
) -> None:
    bag = Path(shutil.copy(toy_stream.bag("colon-07"), tmp_path))

    def again(**options: Any) -> bool:
        asked.clear()
        [result] = comel.predict(toy_run, bag, tmp_path / "out", quiet=True, **options)
        assert not isinstance(result, ComelError)
        assert result.to_dict() == read_prediction(tmp_path / "out" / "colon-07.json").to_dict()
        return asked == ["colon-07"]

    assert again()
    assert not again()
    assert not again(device="cpu", table=tmp_path / "t.csv")
    for options in ({"task": "kidney"}, {"version": 1}, {"width": 300}, {"merge": True}, {"assume_encoder": "toy"}):
        assert again(**options), options
        assert not again(**options), options
    assert again()
    for kind in ("png", "geojson"):
        (tmp_path / "out" / f"colon-07.{kind}").unlink()
        assert again()
    (tmp_path / "out" / "colon-07.json").write_text("{}")
    assert again()
    write_bag(bag, make_bag("colon-07", read_bag(bag).features[:5]))
    assert again()
    assert not again()


def test_another_run_of_the_same_name_is_another_model(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, asked: list[str]
) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    bag = toy_stream.bag("colon-07")
    for _ in range(2):
        comel.predict(run, bag, tmp_path / "out", quiet=True)
    assert asked == ["colon-07"]
    checksums = run / "versions" / "002" / "checksums.json"
    checksums.write_text(json.dumps(dict(reversed(json.loads(checksums.read_text()).items()))))
    comel.predict(run, bag, tmp_path / "out", quiet=True)
    assert asked == ["colon-07", "colon-07"]


def test_a_case_is_kept_whole(toy_run: Path, toy_stream: Stream, tmp_path: Path, asked: list[str]) -> None:
    rows = [{**row, "case_id": "A"} for row in toy_stream.rows if row["slide_id"] in ("colon-07", "colon-15")]
    manifest, bags = write_manifest(tmp_path / "m.csv", rows), tmp_path / "bags"
    bags.mkdir()
    for row in rows:
        shutil.copy(toy_stream.bag(row["slide_id"]), bags)
    for _ in range(2):
        comel.predict(toy_run, manifest, tmp_path / "out", bags=bags, quiet=True)
    assert asked == ["A"]
    assert list(pandas.read_csv(tmp_path / "out" / "predictions.csv")["case_id"]) == ["A", "A"]
    write_bag(bags / "colon-15.h5", read_bag(toy_stream.bag("colon-06")))
    comel.predict(toy_run, manifest, tmp_path / "out", bags=bags, quiet=True)
    assert asked == ["A", "A"]


def test_a_slide_that_failed_is_not_taken_from_an_earlier_prediction(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli
) -> None:
    bags = [Path(shutil.copy(toy_stream.bag(slide), tmp_path)) for slide in ("colon-06", "colon-07")]
    words = ["predict", toy_run, *bags, "--out", tmp_path / "out", "-q"]
    assert comel_cli(*words)[0] == 0
    for bag in bags:
        bag.write_bytes(bag.read_bytes()[:2000])
    code, out, said = comel_cli(*words)
    assert code == 1
    assert said.count("truncated or not HDF5") == 2
    assert out == f"table: {tmp_path / 'out' / 'predictions.csv'}\n"
