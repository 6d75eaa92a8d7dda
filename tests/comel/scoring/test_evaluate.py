"""Evaluation: the command gives what training wrote, on the cases that training did not see."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import comel
from comel.bags.bag import read_bag
from comel.errors import ConfigError, ManifestError
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from comel.scoring.evaluate import choose_instance_threshold
from tests.comel.toys import Stream, scores_of, write_manifest

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
    stored = last_row(scores_of(toy_run))
    assert evaluated(scores) == pytest.approx(stored, nan_ok=True, abs=1e-6)
    assert len(stored) > 40
    for mode in ("class_incremental", "task_incremental"):
        for name in ("accuracy", "auc"):
            values = [scores["tasks"][task][mode]["bag"][name] for task in ("colon", "kidney")]
            assert scores["mean"][mode]["bag"][name] == pytest.approx(sum(values) / 2)


def test_each_version_gives_its_own_row(toy_run: Path, two_tasks: Stream, tmp_path: Path) -> None:
    colon = write_manifest(tmp_path / "colon.csv", [row for row in two_tasks.rows if row["task"] == "colon"])
    scores = comel.evaluate(toy_run, colon, two_tasks.bags, version=1, quiet=True)
    matrices = scores_of(toy_run)["matrices"]
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
    assert (code, said) == (2, "comel: --split tests: no such split; give train, val, test or all\n")


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
    assert evaluated(scores) == pytest.approx(last_row(scores_of(run)), nan_ok=True)


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
    with pytest.raises(ConfigError, match="version 2 has not learned the task 'liver'; give --task colon --task kidney"):
        comel.evaluate(toy_run, toy_stream.manifest, toy_stream.bags, quiet=True)
    with pytest.raises(ConfigError, match="version 1 has not learned the task 'kidney'"):
        comel.evaluate(toy_run, two_tasks.manifest, two_tasks.bags, version=1, quiet=True)
    rows = [dict(row) for row in two_tasks.rows]
    rows[3]["label"] = "adenoma"
    with pytest.raises(ManifestError, match=r"row 5 column label: unknown label 'adenoma'; 'colon' has normal, tumour"):
        comel.evaluate(toy_run, write_manifest(tmp_path / "m.csv", rows), two_tasks.bags, quiet=True)


def test_no_instance_labels_means_the_default_threshold() -> None:
    assert choose_instance_threshold([]) == (0.5, "default")


@pytest.fixture(scope="module")
def domains(toy_stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A domain-incremental run over three tasks."""
    settings = toy_stream.settings({"name": "finetune"}, epochs=4, lr=3e-3)
    settings["data"] = {**settings["data"], "mode": "domain-incremental"}
    return comel.train(settings, tmp_path_factory.mktemp("domains") / "run", quiet=True)


def test_tasks_to_come_are_scored_where_there_is_a_head(domains: Path, toy_stream: Stream, toy_run: Path) -> None:
    """Forward transfer from the scores above the diagonal, of bags and of instances alike, and none without a head."""
    metrics = scores_of(domains)
    for kind, name in (("bag", "accuracy"), ("bag", "auc"), ("instance", "auc")):
        rows = metrics["matrices"][kind]["domain_incremental"][name]
        chance = metrics["chance"][kind]["domain_incremental"][name]
        assert all(value is not None for row in rows for value in row)
        expected = ((rows[0][1] - chance[1]) + (rows[1][2] - chance[2])) / 2
        assert metrics["continual"][kind]["domain_incremental"][name]["forward_transfer"] == pytest.approx(expected)
    # an untrained instance classifier says the same of every tile of a task
    assert metrics["chance"]["instance"]["domain_incremental"]["auc"] == pytest.approx([0.5] * 3, abs=0.05)
    # the first version, asked in public about the task that it had not learned
    first = Predictor.open(domains, version=1)
    slides = toy_stream.slides(task="kidney", split="test")
    right = [first.predict(read_bag(toy_stream.bag(slide))).label == next(
        row["label"] for row in toy_stream.rows if row["slide_id"] == slide) for slide in slides]  # fmt: skip
    assert metrics["matrices"]["bag"]["domain_incremental"]["accuracy"][0][1] == sum(right) / len(right)
    apart = scores_of(toy_run)
    assert apart["chance"] is None
    assert apart["continual"]["bag"]["class_incremental"]["accuracy"]["forward_transfer"] is None


def test_one_head_keeps_a_threshold_a_task(domains: Path, toy_stream: Stream) -> None:
    """Each task is scored with the threshold of its own validation cases; only the first may move the scores."""
    tasks = RunDirectory(domains).info().tasks
    assert len({task.threshold for task in tasks}) == 3
    assert tasks[0].threshold == 0.5
    assert len({task.temperature for task in tasks}) == 1, "the head has one, the newest task's"
    scores = comel.evaluate(domains, toy_stream.manifest, toy_stream.bags, quiet=True)["tasks"]
    predictor = Predictor.open(domains)
    for task in tasks:
        dice = []
        for slide in toy_stream.slides(task=task.name, split="test", label="tumour"):
            bag = read_bag(toy_stream.bag(slide))
            assert bag.labels is not None
            positive, truth = predictor.predict(bag).instance_scores >= task.threshold, bag.labels == 1
            dice.append(2 * (positive & truth).sum() / (positive.sum() + truth.sum()))
        assert scores[task.name]["domain_incremental"]["instance"]["dice"] == pytest.approx(sum(dice) / len(dice))


def test_temperature_and_calibration_errors(toy_stream: Stream, tmp_path: Path) -> None:
    """The temperature of a head is that of its validation cases, kept with the version, and used where scores are made."""
    import torch

    from comel.models.batch import make_batch
    from comel.runs.weights import build_model, load_state
    from comel.scoring.calibration import fit_temperature
    from comel.scoring.metrics import bag_metrics

    settings = toy_stream.settings({"name": "finetune"}, tasks=["colon"], epochs=2, lr=3e-4)
    settings["model"] = {**settings["model"], "bag_evidence": False}
    run = comel.train(settings, tmp_path / "run", quiet=True)
    info = RunDirectory(run).info()
    model = build_model(info.model)
    load_state(RunDirectory(run).version_folder(), model)
    model.eval()

    def logits_and_labels(split: str) -> tuple[np.ndarray, list[int]]:
        slides = toy_stream.slides(task="colon", split=split)
        with torch.no_grad():
            rows = [model(make_batch(read_bag(toy_stream.bag(slide)), torch.device("cpu"))).head_logits[0] for slide in slides]
        return torch.stack(rows).double().numpy(), [int(slide[-2:]) % 2 for slide in slides]

    temperature = fit_temperature(*logits_and_labels("val"))
    assert info.tasks[0].temperature == pytest.approx(temperature)
    assert model.temperature.tolist() == pytest.approx([temperature])
    assert temperature != 1
    logits, labels = logits_and_labels("test")
    bag = comel.evaluate(run, write_manifest(tmp_path / "m.csv", [r for r in toy_stream.rows if r["task"] == "colon"]),
                         toy_stream.bags, quiet=True)["tasks"]["colon"]["task_incremental"]["bag"]  # fmt: skip
    for name, divisor in (("ece", temperature), ("ece_uncalibrated", 1.0)):
        powers = np.exp(logits / divisor)
        expected = bag_metrics(powers / powers.sum(axis=1, keepdims=True), labels)["ece"]
        assert bag[name] == pytest.approx(expected, abs=1e-5)


def test_intervals_stand_beside_the_final_scores(toy_run: Path, two_tasks: Stream) -> None:
    metrics = scores_of(toy_run)
    again = comel.evaluate(toy_run, two_tasks.manifest, two_tasks.bags, quiet=True)["intervals"]
    again = json.loads(json.dumps(again))
    assert again["instance"]["class_incremental"]["auc"]["tasks"]["colon"] == pytest.approx(
        metrics["intervals"]["instance"]["class_incremental"]["auc"]["tasks"]["colon"], abs=1e-3
    )
    for kind, names in (("bag", {"accuracy", "auc"}), ("instance", {"auc", "dice"})):
        for mode in ("class_incremental", "task_incremental"):
            assert metrics["intervals"][kind][mode].keys() == names
            for name in names:
                for i, task in enumerate(("colon", "kidney")):
                    low, high = metrics["intervals"][kind][mode][name]["tasks"][task]
                    assert low - 1e-9 <= metrics["matrices"][kind][mode][name][-1][i] <= high + 1e-9


def test_no_interval_of_a_mean_over_tasks_that_are_gone(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    comel.add_task(run, toy_stream.manifest, toy_stream.bags, tasks=["liver"], overrides=["trainer.epochs=1"], quiet=True)
    accuracy = scores_of(run)["intervals"]["bag"]["class_incremental"]["accuracy"]
    assert accuracy["mean"] is None
    assert accuracy["tasks"].keys() == {"liver"}
    assert accuracy["tasks"]["liver"] is not None


def test_patients_with_several_cases_are_scored_as_patients(toy_stream: Stream, tmp_path: Path) -> None:
    rows = [{**row, "patient_id": f"{row['task']}-{int(row['slide_id'][-2:]) // 8}-{row['split']}-{row['label']}"}
            for row in toy_stream.rows if row["task"] != "liver"]  # fmt: skip
    rows = [{**row, "patient_id": row["patient_id"] if row["task"] == "kidney" else row["slide_id"]} for row in rows]
    for row in rows:
        if row["task"] == "kidney":
            row["patient_id"] = row["patient_id"].replace("-0-", "-").replace("-1-", "-")
    stream = Stream(write_manifest(tmp_path / "m.csv", rows), toy_stream.bags, rows)
    run = comel.train(stream.settings({"name": "finetune"}, tasks=["colon", "kidney"], epochs=1), tmp_path / "run", quiet=True)
    patient = scores_of(run)["matrices"]["patient"]["class_incremental"]["accuracy"]
    assert patient[0] == [None, None]
    assert patient[1][0] is None
    table = pandas.read_csv(run / "evaluations" / "002.csv")
    kidney = table[table["task"] == "kidney"]
    columns = [name for name in table if name.startswith("p:")]
    means = kidney.groupby("patient_id")[columns].mean()
    right = [columns[row.to_numpy().argmax()] == f"p:kidney/{name.rpartition('-')[2]}" for name, row in means.iterrows()]
    assert patient[1][1] == pytest.approx(sum(right) / len(right))
    assert len(right) < len(kidney)
