"""Runs over folds and over orders of the tasks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas
import pytest
import typer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import comel
from comel.app.commands import learning
from comel.app.options import LazyCommand
from comel.base.files import read_bytes
from comel.base.units import Mode
from comel.cohort.manifest import Manifest, read_manifest
from comel.errors import ComelError, ConfigError, RunError
from comel.runs.config import RunConfig, load_config
from comel.runs.directory import RunDirectory
from comel.runs.metrics import ScoreRow
from comel.scoring.continual import ScoreTable
from comel.scoring.metrics import bag_metrics
from comel.training.cross_validation import _keep, _with_folds, over_runs, train_folds, train_orders
from tests.comel.toys import FINETUNE, Stream, scores_of, tree, write_manifest, write_stream


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Two tasks of 12 slides, two slides a patient, no split."""

    def change(rows: list[dict[str, str]]) -> None:
        for i, row in enumerate(rows):
            del row["split"]
            row["patient_id"] = f"{row['task']}-p{i % 12 // 4 * 2 + i % 2}"

    return write_stream(tmp_path_factory.mktemp("stream"), ("colon", "kidney"), slides=12, change=change)


@pytest.fixture(scope="module")
def three_folds(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "out"
    train_folds(stream.settings(FINETUNE, epochs=2), out, folds=3, quiet=True)
    return out


def test_every_slide_is_tested_once_by_a_model_that_never_saw_its_patient(stream: Stream, three_folds: Path) -> None:
    patient_of = {row["slide_id"]: row["patient_id"] for row in stream.rows}
    tested: list[str] = []
    for fold in range(3):
        for task in RunDirectory(three_folds / f"fold-{fold}").info().tasks:
            seen = {patient_of[slide] for slide in task.slides["train"] + task.slides["val"]}
            assert not seen & {patient_of[slide] for slide in task.slides["test"]}
            tested += task.slides["test"]
    assert sorted(tested) == sorted(patient_of)
    table = pandas.read_csv(three_folds / "folds.csv")
    assert sorted(table["case_id"]) == sorted(tested)
    assert table.groupby("patient_id")["fold"].nunique().max() == 1


def test_the_summary_is_what_the_files_hold(three_folds: Path) -> None:
    summary = json.loads((three_folds / "folds.json").read_text())
    runs = [scores_of(three_folds / f"fold-{fold}") for fold in range(3)]
    values = [run["continual"]["instance"]["class_incremental"]["auc"]["final_average"] for run in runs]
    entry = summary["continual"]["instance"]["class_incremental"]["auc"]["final_average"]
    assert entry == {"mean": pytest.approx(np.mean(values)), "spread": pytest.approx(np.std(values, ddof=1)), "values": values}
    table = pandas.read_csv(three_folds / "folds.csv")
    names = [name.removeprefix("p:") for name in table if name.startswith("p:")]
    for task in ("colon", "kidney"):
        rows = table[table["task"] == task]
        labels = [names.index(f"{task}/{label}") for label in rows["label"]]
        for mode, prefix in (("class_incremental", "p:"), ("task_incremental", "given:")):
            expected = bag_metrics(rows[[prefix + name for name in names]].to_numpy(), labels)
            pooled = summary["pooled"]["tasks"][task]
            assert pooled["cases"] == 12
            assert pooled[mode]["bag"] == pytest.approx(expected)
            assert pooled[mode]["patient"]["accuracy"] is not None
    low, high = summary["pooled"]["intervals"]["bag"]["class_incremental"]["accuracy"]["mean"]
    assert low <= summary["pooled"]["mean"]["class_incremental"]["bag"]["accuracy"] <= high


def test_finished_folds_are_kept_and_a_missing_one_is_trained_again(stream: Stream, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", stream.settings(FINETUNE, epochs=2)
    summary = train_folds(settings, out, folds=3, quiet=True)
    before = {name: content for name, content in tree(out).items() if name.startswith(("fold-0", "fold-2"))}
    shutil.rmtree(out / "fold-1")
    assert train_folds(settings, out, folds=3, quiet=True) == summary
    assert {name: content for name, content in tree(out).items() if name.startswith(("fold-0", "fold-2"))} == before
    with pytest.raises(RunError, match="fold-0: holds a finished run of other settings or another manifest"):
        train_folds(stream.settings(FINETUNE, epochs=1), out, folds=3, quiet=True)
    with pytest.raises(RunError, match=r"manifest\.csv: holds another cohort or other folds"):
        train_folds(stream.settings(FINETUNE, epochs=2), out, folds=2, quiet=True)


def test_test_slides_of_the_manifest_that_folds_train_on_are_named(
    stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over all folds, and in the training of a single one; a fold's own manifest has no split, so no fold says it again."""
    rows = [
        {**row, "split": "test" if row["patient_id"].endswith("p1") else "train", "fold": row["patient_id"][-1]}
        for row in stream.rows
    ]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    settings = Stream(manifest, stream.bags, rows).settings(FINETUNE, epochs=1, tasks=["colon"])
    said = "training: folds ignore the column split: its 2 test slides (colon-01, colon-03) are trained on in all folds but one"
    numbers = len({row["fold"] for row in rows})
    train_folds(settings, tmp_path / "out", folds=numbers)
    assert capsys.readouterr().err.count(said) == 1
    comel.train({**settings, "data": {**settings["data"], "fold": 2}}, tmp_path / "single")
    assert capsys.readouterr().err.count(said) == 1


def test_a_column_of_folds_with_gaps_is_refused(stream: Stream, tmp_path: Path) -> None:
    rows = [{**row, "fold": "0" if row["slide_id"] != "kidney-05" else ""} for row in stream.rows]
    settings = Stream(write_manifest(tmp_path / "m.csv", rows), stream.bags, rows).settings(FINETUNE)
    with pytest.raises(ConfigError, match=r"m\.csv: 1 slides have no fold \(such as kidney-05\); fill in the column fold"):
        train_folds(settings, tmp_path / "out", folds=2, quiet=True)


def test_the_manifests_own_folds_are_taken(stream: Stream, tmp_path: Path) -> None:
    rows = [{**row, "fold": str(4 + int(row["patient_id"][-1]) // 2 % 2)} for row in stream.rows]
    own = Stream(write_manifest(tmp_path / "own.csv", rows), stream.bags, rows)
    settings = own.settings(FINETUNE, epochs=1)
    with pytest.raises(ConfigError, match=r"column fold has 2 folds, not 3; give --folds 2"):
        train_folds(settings, tmp_path / "out", folds=3, quiet=True)
    assert not (tmp_path / "out").exists()
    train_folds(settings, tmp_path / "out", folds=2, quiet=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "fold-4", "fold-5", "folds.csv", "folds.json", "manifest.csv",
    }  # fmt: skip
    written = read_manifest(tmp_path / "out" / "manifest.csv", root=tmp_path).rows
    assert {row.slide_id: str(row.fold) for row in written} == {row["slide_id"]: row["fold"] for row in rows}
    assert [row.path for row in written] == [row.path for row in read_manifest(own.manifest).rows]


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=8).map("x".__add__)
"""No word that means that nothing is known."""


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "label": WORDS,
                "site": WORDS,
                "annotation": st.sampled_from(["", "a/b.xml"]),
                "mpp": st.sampled_from(["", "0.1", "1"]),
            }
        ),
        min_size=2,
        max_size=6,
    )
)
def test_the_cohort_that_is_dealt_out_is_what_its_file_holds(rows: list[dict[str, str]]) -> None:
    """Down to the hash of the file, which is part of a fold's plan: whoever reads it back goes on with the fold."""
    assume(all(value.strip() for row in rows for value in (row["label"], row["site"])))
    with TemporaryDirectory() as folder:
        whole = [
            {"slide_id": f"s{i}", "path": f"{i}.svs", "task": "t", "fold": str(i % 2), **row} for i, row in enumerate(rows)
        ]
        manifest = write_manifest(Path(folder) / "m.csv", whole)
        config = RunConfig.model_validate({"data": {"manifest": manifest}})
        dealt = _with_folds(read_manifest(manifest), config, Path(folder) / "out" / "manifest.csv", 2)
        _keep(dealt)
        assert read_manifest(dealt.path, root=Path(folder)) == dealt
        _keep(dealt)


def test_the_manifest_is_read_once(stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def reading(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    monkeypatch.setattr("comel.cohort.table_text.read_bytes", reading)
    settings = stream.settings(FINETUNE, epochs=1)
    train_folds(settings, tmp_path / "folds", folds=2, quiet=True)
    train_orders(settings, tmp_path / "orders", orders=2, quiet=True)
    run = comel.train(settings, tmp_path / "run", quiet=True)
    comel.evaluate(run, stream.manifest, stream.bags, quiet=True)
    assert [path for path in read if path.suffix == ".csv"] == [stream.manifest] * 4


def test_a_manifest_may_be_handed_on(stream: Stream, tmp_path: Path) -> None:
    """Settings name no manifest, and the file is gone: what was read is trained on, and named in the run's settings."""
    path = Path(shutil.copy(stream.manifest, tmp_path / "cohort.csv"))
    cohort: Manifest = read_manifest(path)
    path.unlink()
    settings = stream.settings(FINETUNE, epochs=1, tasks=["kidney"])
    settings["data"] = {**settings["data"], "manifest": None}
    run = comel.train(settings, tmp_path / "run", manifest=cohort, quiet=True)
    assert [task.name for task in RunDirectory(run).info().tasks] == ["kidney"]
    assert load_config(run / "config.yaml").data.manifest == path
    same = comel.train(stream.settings(FINETUNE, epochs=1, tasks=["kidney"]), tmp_path / "same", quiet=True)
    weights = [(folder / "versions" / "001" / "model.safetensors").read_bytes() for folder in (run, same)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("change", "folds", "said"),
    [
        ({"fold": 1}, 3, r"data\.fold is set"),
        ({"manifest": None}, 3, "no manifest is named"),
        ({}, 1, "1 folds; give at least 2"),
        ({}, 50, "50 folds of at most"),
    ],
)
def test_what_cannot_be_folded(stream: Stream, tmp_path: Path, change: dict[str, object], folds: int, said: str) -> None:
    settings = stream.settings(FINETUNE)
    settings["data"] = {**settings["data"], **change}
    with pytest.raises(ComelError, match=said):
        train_folds(settings, tmp_path / "out", folds=folds, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused(stream: Stream, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no folds"):
        train_folds(stream.settings(FINETUNE), tmp_path, folds=3, quiet=True)
    assert os.listdir(tmp_path) == ["letter.txt"]  # noqa: PTH208


def test_orders_differ_and_the_given_one_comes_first(stream: Stream, tmp_path: Path) -> None:
    settings = stream.settings(FINETUNE, epochs=1, tasks=["kidney", "colon"])
    summary = train_orders(settings, tmp_path / "out", orders=2, quiet=True)
    assert summary["orders"] == [["kidney", "colon"], ["colon", "kidney"]]
    assert json.loads((tmp_path / "out" / "orders.json").read_text()) == summary
    runs = [scores_of(tmp_path / "out" / f"order-{i}") for i in range(2)]
    assert [run["tasks"] for run in runs] == summary["orders"]
    forgetting = [run["continual"]["bag"]["class_incremental"]["accuracy"]["forgetting"] for run in runs]
    assert summary["continual"]["bag"]["class_incremental"]["accuracy"]["forgetting"]["values"] == forgetting
    tests = [
        {task.name: sorted(task.slides["test"]) for task in RunDirectory(tmp_path / "out" / f"order-{i}").info().tasks}
        for i in range(2)
    ]
    assert tests[0] == tests[1]
    before = tree(tmp_path / "out")
    assert train_orders(settings, tmp_path / "out", orders=2, quiet=True) == summary
    assert tree(tmp_path / "out") == before


def test_more_orders_than_there_are_is_refused(stream: Stream, tmp_path: Path) -> None:
    for orders in (0, 3):
        with pytest.raises(ConfigError, match=rf"{orders} orders: 2 tasks have 2; give 1 to 2"):
            train_orders(stream.settings(FINETUNE), tmp_path / "out", orders=orders, quiet=True)
    assert not (tmp_path / "out").exists()


def test_orders_of_many_tasks() -> None:
    from comel.training.cross_validation import _orders

    for names in ([*"abcd"], [*"abcdefghij"]):
        found = _orders(names, 20, 7)
        assert found[0] == names
        assert len({tuple(order) for order in found}) == 20
        assert all(sorted(order) == names for order in found)
        assert _orders(names, 20, 7) == found != _orders(names, 20, 8)


def test_mean_and_spread_pass_over_what_is_not_defined() -> None:
    def run(value: float | None, stages: int = 1) -> ScoreTable:
        return ScoreTable(ScoreRow(stage, "a", "bag", Mode.CLASS, "accuracy", value) for stage in range(stages))

    entry = over_runs([run(0.5), run(None), run(0.9), run(0.7, stages=2)])["bag"]["class_incremental"]["accuracy"]
    assert entry["final_average"] == {
        "mean": pytest.approx(0.7),
        "spread": pytest.approx(0.4 / np.sqrt(2)),
        "values": [0.5, None, 0.9, None],
    }
    assert over_runs([run(0.7, stages=2)]) == {"bag": {"class_incremental": {"accuracy": {}}}}
    assert over_runs([run(0.5)])["bag"]["class_incremental"]["accuracy"]["final_average"]["spread"] is None


@pytest.fixture
def command() -> Callable[..., Result]:
    """The three commands as an application of their own."""
    app = typer.Typer()
    for name, function in (("train", learning.train), ("add-task", learning.add_task), ("evaluate", learning.evaluate)):
        app.command(name, cls=LazyCommand, epilog=learning.EPILOGS[name])(function)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments)])

    return run


def test_the_command_trains_folds_and_orders(stream: Stream, tmp_path: Path, command: Callable[..., Result]) -> None:
    words = ["--manifest", stream.manifest, "--bags", stream.bags, "--epochs", 1, "--strategy", "finetune"]
    small = ["dim=32", "attention_hidden=16", "blocks=1", "num_heads=4", "region_size=4"]
    words += [word for value in small for word in ("--set", f"model.{value}")]
    told = command("train", *words, "--out", tmp_path / "folds", "--folds", 2, "-q")
    assert told.exit_code == 0, told.output
    assert told.output.startswith(f"2 runs: {tmp_path / 'folds' / 'folds.json'}\n")
    assert "class_incremental accuracy " in told.output
    assert " ± 0." in told.output
    told = command("train", *words, "--out", tmp_path / "orders", "--orders", 2, "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.output) == json.loads((tmp_path / "orders" / "orders.json").read_text())
    for pair in (("--folds", 2, "--orders", 2), ("--folds", 2, "--resume")):
        refused = command("train", *words, "--out", tmp_path / "both", *pair)
        assert isinstance(refused.exception, ComelError)
        assert "exclude one another" in str(refused.exception)


def test_the_command_evaluates_single_tasks_and_writes_a_table(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, command: Callable[..., Result]
) -> None:
    words = ("evaluate", toy_run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags)
    told = command(*words, "--task", "kidney", "--table", tmp_path / "cases.csv", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["tasks"].keys() == {"kidney"}
    table = pandas.read_csv(tmp_path / "cases.csv")
    assert list(table["case_id"]) == toy_stream.slides(task="kidney", split="test")
    stored = pandas.read_csv(toy_run / "evaluations" / "002.csv")
    stored = stored[stored["task"] == "kidney"].reset_index(drop=True)
    pandas.testing.assert_frame_equal(table, stored, atol=1e-6)
    told = command(*words, "--task", "kidney", "--task", "colon", "-q")
    assert told.exit_code == 0, told.output
    assert told.output.index("kidney: 4 cases\n") < told.output.index("colon: 4 cases\n")
    assert "accuracy 1.000 [" in told.output
    for task, said in (("liver", "has not learned the task 'liver'"), ("skin", "has not learned the task 'skin'")):
        assert said in str(command(*words, "--task", task).exception)
