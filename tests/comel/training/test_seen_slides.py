"""A slide or a patient that a run has tested does not become a training case of it, nor the other way round, from the command
line: add-task on the run's own manifest or a second one, on the run of a fold, and evaluation elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import comel
from comel.cohort.seen import patient_key
from comel.runs.directory import RunDirectory
from tests.comel.app.test_trusted_code import in_models, sign
from tests.comel.toys import FINETUNE, Stream, write_manifest, write_stream

Cli = Callable[..., tuple[int, str, str]]
Rows = list[dict[str, str]]
ADD = ("--set", "trainer.epochs=1")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Colon: a patient with a slide of either label. Liver: slides of the same patients. No split is given."""

    def patients(rows: Rows) -> None:
        for row in rows:
            row |= {"patient_id": f"p{int(row['slide_id'][-2:]) // 2}", "split": ""}

    return write_stream(tmp_path_factory.mktemp("patients"), ["colon", "liver"], change=patients)


@pytest.fixture(scope="module")
def trained(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first task."""
    settings = stream.settings(FINETUNE, tasks=["colon"], epochs=1)
    return comel.train(settings, tmp_path_factory.mktemp("trained") / "run", quiet=True)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def patients_of(run: Path, stream: Stream, task: int) -> dict[str, set[str]]:
    """The patients whom the newest version had in each split of a task, by what it says of slides."""
    whose = {row["slide_id"]: row["patient_id"] for row in stream.rows}
    slides = RunDirectory(run).info().tasks[task].slides
    return {split: {whose[name] for name in names} for split, names in slides.items()}


def second(stream: Stream, path: Path, change: Callable[[dict[str, str]], object]) -> Path:
    """Another manifest over the same slides of colon, which asks another question of them."""
    rows = [{**row, "task": "grade"} for row in stream.rows if row["task"] == "colon"]
    for row in rows:
        change(row)
    return write_manifest(path, rows)


def test_a_version_keeps_its_patients_and_not_their_names(run: Path, stream: Stream) -> None:
    info = RunDirectory(run).info()
    expected = {split: sorted(map(patient_key, names)) for split, names in patients_of(run, stream, 0).items()}
    assert info.tasks[0].patients == expected
    assert all(expected.values())


@pytest.mark.parametrize("keys", [True, False], ids=["", "of version 0.1.0"])
def test_the_next_task_of_the_same_manifest_keeps_patients_apart(keys: bool, run: Path, stream: Stream, comel_cli: Cli) -> None:
    """The old rows tell whose the new slides are where the run does not."""
    if not keys:
        in_models(lambda content: content["tasks"][0].pop("patients"))(run, run)
        sign(run)
    code, _, said = comel_cli("add-task", run, "--manifest", stream.manifest, "--bags", stream.bags, "--task", "liver", *ADD)
    assert code == 0, said
    assert patients_of(run, stream, 1) == patients_of(run, stream, 0)
    assert "training: slides of patients that the run has seen stay in its splits: 10 in train, 2 in val, 4 in test" in said


def test_a_second_manifest_of_the_same_slides_follows_the_run(
    run: Path, stream: Stream, comel_cli: Cli, tmp_path: Path
) -> None:
    manifest = second(stream, tmp_path / "grade.csv", lambda row: row.pop("patient_id"))
    code, _, said = comel_cli("add-task", run, "--manifest", manifest, "--bags", stream.bags, *ADD)
    assert code == 0, said
    assert patients_of(run, stream, 1) == patients_of(run, stream, 0)


def test_a_split_that_contradicts_the_run_is_refused(run: Path, stream: Stream, comel_cli: Cli, tmp_path: Path) -> None:
    before = sorted(path.name for path in run.rglob("*"))
    manifest = second(stream, tmp_path / "grade.csv", lambda row: row.update(split="train"))
    code, _, said = comel_cli("add-task", run, "--manifest", manifest, "--bags", stream.bags, *ADD)
    assert (code, said.count("\n")) == (2, 1)
    assert " is train here and was " in said
    assert "in the run's task 'colon'" in said
    assert sorted(path.name for path in run.rglob("*")) == before


def test_the_run_of_a_fold_keeps_its_fold_in_a_later_task(stream: Stream, comel_cli: Cli, tmp_path: Path) -> None:
    words = ["--manifest", stream.manifest, "--bags", stream.bags]
    small = [word for name in ("model.dim=32", "model.num_heads=2", "strategy.rank=4") for word in ("--set", name)]
    code, _, said = comel_cli(
        "train", *words, "--set", "data.tasks=[colon]", "--folds", 2, "--out", tmp_path / "folds", *small, *ADD
    )
    assert code == 0, said
    run = tmp_path / "folds" / "fold-1"
    code, _, said = comel_cli("add-task", run, *words, "--task", "liver", *ADD)
    assert code == 0, said
    assert patients_of(run, stream, 1) == patients_of(run, stream, 0)


def test_evaluation_elsewhere_does_not_test_on_what_was_trained_on(
    run: Path, stream: Stream, comel_cli: Cli, tmp_path: Path
) -> None:
    """A second manifest calls new slides of all patients test cases; those of training patients are none, and are named."""
    trained = patients_of(run, stream, 0)
    rows = [{**row, "task": "colon", "split": "test"} for row in stream.rows if row["task"] == "liver"]
    words = ("--manifest", write_manifest(tmp_path / "elsewhere.csv", rows), "--bags", stream.bags, "--json")
    code, out, said = comel_cli("evaluate", run, *words)
    assert code == 0, said
    scores: dict[str, Any] = json.loads(out)
    assert scores["tasks"]["colon"]["cases"] == len([row for row in rows if row["patient_id"] in trained["test"]]) > 0
    moved = "slides count as train, not as test, because the run has seen them or their patients there: liver-"
    assert any(moved in note for note in scores["notes"])
    assert moved in comel_cli("evaluate", run, *words[:-1])[2]
    everything = json.loads(comel_cli("evaluate", run, *words, "--split", "all")[1])
    assert everything["tasks"]["colon"]["cases"] == len(rows)


def test_evaluation_of_what_was_trained_on_alone_says_that_nothing_is_left(
    run: Path, stream: Stream, comel_cli: Cli, tmp_path: Path
) -> None:
    trained = patients_of(run, stream, 0)["train"]
    rows = [{**row, "task": "colon"} for row in stream.rows if row["task"] == "liver" and row["patient_id"] in trained]
    words = ("--manifest", write_manifest(tmp_path / "elsewhere.csv", rows), "--bags", stream.bags)
    code, _, said = comel_cli("evaluate", run, *words, "--quiet")
    assert (code, said.count("\n")) == (2, 1)
    assert "elsewhere.csv: there is no test case (10 slides count as train, not as test, because the run has seen them" in said
