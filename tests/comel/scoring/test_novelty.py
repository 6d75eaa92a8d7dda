"""Bags unlike anything learned: the distance against its definition, its threshold, and the flag of a prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

import comel
from comel.nn.recognition import TaskRecognition
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from comel.scoring.novelty import choose_distance_threshold
from tests.comel.nn.test_recognition import shrunken_by_loops, some_bags, taught
from tests.comel.toys import DIMENSION, FINETUNE, MODEL, Stream, features_of, make_bag


def test_the_distance_is_mahalanobis_to_the_nearest_class() -> None:
    bags = some_bags()
    means = np.stack([features.double().mean(dim=0).numpy() for features, _ in bags])
    labels = np.array([column for _, column in bags])
    centres = np.stack([means[labels == column].mean(axis=0) for column in range(5)])
    precision = np.linalg.inv(shrunken_by_loops(means - centres[labels], len(bags) - 5))
    queries = torch.stack([features[:2] for features, _ in some_bags(seed=1)])
    apart = queries.double().mean(dim=1).numpy()[:, None] - centres
    expected = np.sqrt(np.einsum("bci,ij,bcj->bc", apart, precision, apart) / apart.shape[2])
    recognition = taught(bags)
    for columns in (slice(0, 5), slice(2, 4)):
        found = recognition.distance(queries, None, columns)
        assert found is not None
        np.testing.assert_allclose(found, expected[:, columns].min(axis=1), rtol=1e-8)
    padded = torch.cat([queries, torch.full((len(queries), 3, queries.shape[2]), 1e6)], dim=1)
    mask = torch.arange(padded.shape[1]).expand(len(queries), -1) < 2
    torch.testing.assert_close(
        recognition.distance(padded, mask, slice(0, 5)), recognition.distance(queries, None, slice(0, 5))
    )


def test_what_is_learned_or_loaded_later_counts() -> None:
    first, second = some_bags()[:12], some_bags()[12:]
    recognition = taught(first)
    query = second[-1][0][None]
    before = recognition.distance(query, None, slice(0, 5))
    for features, column in second:
        recognition.observe(features, column)
    recognition.fit()
    whole = taught([*first, *second])
    after = recognition.distance(query, None, slice(0, 5))
    assert before is not None
    assert after is not None
    torch.testing.assert_close(after, whole.distance(query, None, slice(0, 5)))
    assert not torch.allclose(before, after)
    loaded = taught(first)
    loaded.distance(query, None, slice(0, 5))
    loaded.load_state_dict(whole.state_dict())
    torch.testing.assert_close(loaded.distance(query, None, slice(0, 5)), after)


def test_nothing_known_gives_no_distance() -> None:
    recognition = TaskRecognition(4)
    recognition.add_classes(2)
    assert recognition.distance(torch.zeros(1, 3, 4), None, slice(0, 2)) is None


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=40))
def test_the_threshold_is_beyond_the_typical_and_scales_with_the_unit(known: list[float]) -> None:
    found = choose_distance_threshold(known)
    assert found is not None
    assert found >= np.exp(np.mean(np.log(known))) * (1 - 1e-9)
    assert choose_distance_threshold([3 * value for value in known]) == pytest.approx(3 * found)


def test_one_of_a_hundred_passes_the_threshold_also_of_few_bags() -> None:
    random = np.random.default_rng(0)
    for count in (4, 12):
        known = np.exp(random.normal(size=(4000, count)) * 0.2)
        further = np.exp(random.normal(size=4000) * 0.2)
        passed = np.mean([value > (choose_distance_threshold(row) or 0) for row, value in zip(known, further, strict=True)])
        assert 0.006 < passed < 0.014
    logs = np.log([1.0, 2.0, 4.0])
    reach = student.ppf(0.99, 2) * logs.std(ddof=1) * np.sqrt(4 / 3)
    assert choose_distance_threshold([1.0, 2.0, 4.0]) == pytest.approx(np.exp(logs.mean() + reach))
    assert choose_distance_threshold([1.0, 2.0]) is None


def bag_of(task: str, seed: int) -> Any:
    features, _ = features_of(task, "tumour", np.random.default_rng(seed), 20)
    return make_bag(f"{task}-{seed}", features)


def test_a_slide_of_an_unknown_organ_is_flagged(toy_run: Path) -> None:
    predictor = Predictor.open(toy_run, device="cpu")
    found = {task: [predictor.predict(bag_of(task, seed)).out_of_distribution for seed in range(20)] for task in
             ("colon", "kidney", "liver")}  # fmt: skip
    flags = {task: np.mean([one is not None and one.flag for one in several]) for task, several in found.items()}
    assert flags["liver"] == 1
    assert max(flags["colon"], flags["kidney"]) <= 0.1
    kidney = bag_of("kidney", 1)
    alone, told = predictor.predict(kidney).out_of_distribution, predictor.predict(kidney, task="colon").out_of_distribution
    assert alone is not None
    assert told is not None
    assert (alone.flag, told.flag) == (False, True)  # of the wrong organ for the task that was named
    assert {task.distance_threshold for task in RunDirectory(toy_run).info().tasks} >= {alone.threshold}


def test_the_flag_is_kept_tabled_and_said(
    toy_run: Path, tmp_path: Path, comel_cli: Callable[..., tuple[int, str, str]]
) -> None:
    import pandas as pd

    from comel.bags.bag import write_bag
    from comel.prediction.prediction import read_prediction

    for task in ("colon", "liver"):
        write_bag(tmp_path / f"{task}.h5", bag_of(task, 3))
    out = tmp_path / "out"
    code, said, _ = comel_cli("predict", toy_run, tmp_path / "colon.h5", tmp_path / "liver.h5", "--out", out, "--device", "cpu")
    assert code == 0
    known, strange = said.splitlines()[:2]
    assert "unlike" not in known
    assert strange.endswith("unlike all that the model has learned")
    table = pd.read_csv(out / "predictions.csv")
    assert table["out_of_distribution"].tolist() == [False, True]
    assert table["distance"][0] < table["distance"][1]
    (kept,) = (path for path in out.glob("*.json") if "liver" in path.name)
    said_there = json.loads(kept.read_text())["out_of_distribution"]
    novelty = read_prediction(kept).out_of_distribution
    assert novelty is not None
    assert said_there == {"score": novelty.score, "threshold": novelty.threshold, "flag": True}


def test_a_slide_of_another_organ_than_the_named_one_is_said_to_be(
    toy_run: Path, tmp_path: Path, comel_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """The kidney is known to the model, but no slide of the colon."""
    from comel.bags.bag import write_bag

    write_bag(tmp_path / "kidney.h5", bag_of("kidney", 1))
    for task, ending in (("colon", ", unlike all that the model has learned of colon"), ("kidney", "tiles positive")):
        out = tmp_path / task
        words = ("predict", toy_run, tmp_path / "kidney.h5", "--task", task, "--out", out, "--device", "cpu")
        code, said, _ = comel_cli(*words)
        assert code == 0
        assert said.splitlines()[0].endswith(ending)
        assert json.loads((out / "kidney.json").read_text())["out_of_distribution"]["flag"] is (task == "colon")


def test_the_table_of_test_cases_has_the_distances_of_predictions(toy_run: Path, toy_stream: Stream) -> None:
    import pandas as pd

    from comel.bags.bag import read_bag

    predictor = Predictor.open(toy_run, device="cpu")
    table = pd.read_csv(toy_run / "evaluations" / "002.csv", dtype={"case_id": str})
    assert len(table) > 3
    for case, distance in zip(table["case_id"], table["distance"], strict=True):
        novelty = predictor.predict(read_bag(toy_stream.bag(case))).out_of_distribution
        assert novelty is not None
        assert distance == pytest.approx(novelty.score, rel=1e-4)


def test_a_model_that_keeps_no_statistics_says_nothing(toy_stream: Stream, tmp_path: Path) -> None:
    settings = toy_stream.settings(FINETUNE, tasks=["colon"], epochs=1) | {"model": MODEL | {"recognition": "none"}}
    run = comel.train(settings, tmp_path / "run", quiet=True)
    prediction = Predictor.open(run, device="cpu").predict(make_bag("x", np.zeros((3, DIMENSION))))
    assert prediction.out_of_distribution is None
    assert prediction.to_dict()["out_of_distribution"] is None
    assert replace(prediction).from_dict(prediction.to_dict()).out_of_distribution is None
