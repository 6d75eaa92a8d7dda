"""Evaluation: the command gives what training wrote, on the cases that training did not see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from toys import Stream, write_manifest

import comel
from comel.bag import read_bag
from comel.errors import ConfigError, ManifestError
from comel.evaluation import append_row, choose_instance_threshold, continual, new_matrices
from comel.predictor import Predictor

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def two_tasks(toy_stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """The manifest of the tasks that the run has learned."""
    rows = [row for row in toy_stream.rows if row["task"] != "liver"]
    return Stream(write_manifest(tmp_path_factory.mktemp("two") / "m.csv", rows), toy_stream.bags, rows)


def last_row(metrics: dict[str, Any]) -> dict[tuple[str, str, str, str], float | None]:
    """(task, mode, kind, score) to its value after the last stage."""
    return {
        (task, mode, kind, name): rows[-1][i]
        for kind, modes in metrics["matrices"].items()
        for mode, names in modes.items()
        for name, rows in names.items()
        for i, task in enumerate(metrics["tasks"])
    }


def evaluated(scores: dict[str, Any]) -> dict[tuple[str, str, str, str], float | None]:
    return {
        (task, mode, kind, name): value
        for task, entry in scores["tasks"].items()
        for mode, kinds in entry.items()
        if mode != "cases"
        for kind, values in kinds.items()
        for name, value in values.items()
    }


def test_the_command_gives_the_last_row_of_the_matrices(toy_run: Path, two_tasks: Stream, comel_cli: Cli) -> None:
    code, out, said = comel_cli("evaluate", toy_run, "--manifest", two_tasks.manifest, "--bags", two_tasks.bags, "--json")
    assert (code, said) == (0, "")
    scores = json.loads(out)
    assert (scores["version"], scores["split"]) == (2, "test")
    stored = last_row(json.loads((toy_run / "metrics.json").read_text()))
    assert evaluated(scores) == pytest.approx(stored, nan_ok=True)
    assert len(stored) > 40
    for mode in ("class_incremental", "task_incremental"):
        for name in ("accuracy", "auc"):
            values = [scores["tasks"][task][mode]["bag"][name] for task in ("colon", "kidney")]
            assert scores["mean"][mode]["bag"][name] == pytest.approx(sum(values) / 2)


def test_each_version_gives_its_own_row(toy_run: Path, two_tasks: Stream, tmp_path: Path) -> None:
    colon = write_manifest(tmp_path / "colon.csv", [row for row in two_tasks.rows if row["task"] == "colon"])
    scores = comel.evaluate(toy_run, colon, two_tasks.bags, version=1, quiet=True)
    matrices = json.loads((toy_run / "metrics.json").read_text())["matrices"]
    for name, value in scores["tasks"]["colon"]["class_incremental"]["instance"].items():
        assert value == pytest.approx(matrices["instance"]["class_incremental"][name][0][0], nan_ok=True)
    assert matrices["bag"]["class_incremental"]["accuracy"][0][1] is None


def test_the_toy_is_learned(toy_run: Path, two_tasks: Stream) -> None:
    """The stream is learnable, or else the other tests would say little."""
    mean = comel.evaluate(toy_run, two_tasks.manifest, two_tasks.bags, split=None, quiet=True)["mean"]
    assert mean["class_incremental"]["bag"]["accuracy"] >= 0.9
    assert mean["task_incremental"]["instance"]["auc"] >= 0.85


def test_the_text_names_every_task_and_score(toy_run: Path, two_tasks: Stream, comel_cli: Cli) -> None:
    code, out, _ = comel_cli("evaluate", toy_run, "--manifest", two_tasks.manifest, "--bags", two_tasks.bags, "-q")
    assert code == 0
    assert "colon: 4 cases\n" in out
    assert out.count("accuracy 1.000") + out.count("accuracy 0.") == 4
    assert "Dice" in out


def test_splits(toy_run: Path, two_tasks: Stream, comel_cli: Cli) -> None:
    cases = {}
    for split in ("train", "val", "test", "all"):
        code, out, _ = comel_cli(
            "evaluate", toy_run, "--manifest", two_tasks.manifest, "--bags", two_tasks.bags, "--split", split, "--json"
        )
        assert code == 0
        cases[split] = json.loads(out)["tasks"]["colon"]["cases"]
    assert cases == {"train": 8, "val": 4, "test": 4, "all": 16}
    code, _, said = comel_cli(
        "evaluate", toy_run, "--manifest", two_tasks.manifest, "--bags", two_tasks.bags, "--split", "tests"
    )
    assert (code, said) == (2, "comel: --split tests: no such split; say train, val, test or all\n")


def test_training_slides_are_not_tested_on_where_the_manifest_is_silent(
    toy_run: Path, two_tasks: Stream, tmp_path: Path
) -> None:
    """A cohort without a split column: what the run trained on stays training; slides it never saw are test slides."""
    silent = [{key: value for key, value in row.items() if key != "split"} for row in two_tasks.rows]
    manifest = write_manifest(tmp_path / "silent.csv", silent)
    scores = comel.evaluate(toy_run, manifest, two_tasks.bags, quiet=True)
    assert scores == comel.evaluate(toy_run, two_tasks.manifest, two_tasks.bags, quiet=True)
    bags = tmp_path / "bags"
    bags.mkdir()
    for row in silent:
        (bags / f"new-{row['slide_id']}.h5").symlink_to(two_tasks.bag(row["slide_id"]))
        row["slide_id"] = f"new-{row['slide_id']}"
    unseen = comel.evaluate(toy_run, write_manifest(tmp_path / "unseen.csv", silent), bags, quiet=True)
    assert unseen["tasks"]["colon"]["cases"] == 16


def test_a_run_without_a_split_column_is_evaluated_on_what_it_left_out(two_tasks: Stream, tmp_path: Path) -> None:
    silent = [{key: value for key, value in row.items() if key != "split"} for row in two_tasks.rows]
    stream = Stream(write_manifest(tmp_path / "silent.csv", silent), two_tasks.bags, silent)
    run = comel.train(stream.settings({"name": "finetune"}, epochs=1), tmp_path / "run", quiet=True)
    scores = comel.evaluate(run, stream.manifest, stream.bags, quiet=True)
    assert evaluated(scores) == pytest.approx(last_row(json.loads((run / "metrics.json").read_text())), nan_ok=True)


def test_the_table_of_cases_agrees_with_prediction(toy_run: Path, two_tasks: Stream) -> None:
    table = pandas.read_csv(toy_run / "evaluations" / "002.csv", dtype={"case_id": str})
    assert list(table["case_id"]) == [
        *two_tasks.slides(task="colon", split="test"),
        *two_tasks.slides(task="kidney", split="test"),
    ]
    predictor = Predictor.open(toy_run)
    classes = [column for column in table if column.startswith("p:")]
    assert [name.removeprefix("p:") for name in classes] == predictor.class_names
    for row in table.to_dict("records"):
        bag = read_bag(two_tasks.bag(row["case_id"]))
        prediction = predictor.predict(bag)
        assert prediction.probabilities is not None
        assert [row[name] for name in classes] == pytest.approx(prediction.probabilities.tolist(), abs=1e-6)
        assert row["predicted"] == prediction.predicted_class
        assert row["predicted_with_task_given"] == predictor.predict(bag, task=row["task"]).predicted_class


def test_unknown_tasks_and_labels_are_refused(toy_run: Path, toy_stream: Stream, two_tasks: Stream, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="version 2 has not learned the task 'liver'; it knows colon, kidney"):
        comel.evaluate(toy_run, toy_stream.manifest, toy_stream.bags, quiet=True)
    with pytest.raises(ConfigError, match="version 1 has not learned the task 'kidney'"):
        comel.evaluate(toy_run, two_tasks.manifest, two_tasks.bags, version=1, quiet=True)
    rows = [dict(row) for row in two_tasks.rows]
    rows[3]["label"] = "adenoma"
    with pytest.raises(ManifestError, match=r"row 5 column label: unknown label 'adenoma'; 'colon' has normal, tumour"):
        comel.evaluate(toy_run, write_manifest(tmp_path / "m.csv", rows), two_tasks.bags, quiet=True)


def test_no_instance_labels_means_the_default_threshold() -> None:
    assert choose_instance_threshold([]) == (0.5, "default")


def test_rows_of_matrices_grow_with_the_tasks() -> None:
    matrices = new_matrices()
    for tasks in (["a"], ["a", "b"], ["a", "b", "c"]):
        scored = {task: {"class_incremental": {"bag": {"accuracy": 0.5 + 0.1 * len(tasks)}}} for task in tasks if task != "b"}
        append_row(matrices, tasks, scored)
    rows = matrices["bag"]["class_incremental"]["accuracy"]
    assert rows == [[0.6, None, None], [0.7, None, None], [0.8, None, pytest.approx(0.8)]]
    assert continual(matrices)["bag"]["class_incremental"]["accuracy"] is not None
