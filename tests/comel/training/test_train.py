"""Training and add-task: killed anywhere and started again, they end with the very weights of a run never killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import comel
from comel.bags.bag import read_bag, write_bag
from comel.bags.contract import FeatureContract
from comel.errors import BagError, CapacityError, ComelError, ConfigError, FeatureMismatch, ManifestError, RunError
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from tests.comel.toys import (
    CONTRACT,
    FINETUNE,
    OWLORA,
    TRAINER,
    Stream,
    killed,
    make_bag,
    scores_of,
    tree,
    write_manifest,
    write_stream,
)
from tests.places import ROOT

Cli = Callable[..., tuple[int, str, str]]
STRATEGIES = pytest.mark.parametrize("strategy", [OWLORA, FINETUNE], ids=["owlora", "finetune"])
SHORT: dict[str, Any] = {"epochs": 2, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def small_stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Two tasks of eight slides."""
    return write_stream(tmp_path_factory.mktemp("small"), ("colon", "kidney"), slides=8)


@pytest.fixture(scope="module")
def liver_stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return write_stream(tmp_path_factory.mktemp("liver"), ("liver",), slides=8)


def weights(run: Path) -> dict[str, bytes]:
    """The tensors of every version, as bytes. ``model.json`` differs by its date."""
    return {name: content for name, content in tree(run / "versions").items() if name.endswith(".safetensors")}


def metrics(run: Path) -> dict[str, Any]:
    """``metrics.json`` without the time that stages took."""
    content: dict[str, Any] = scores_of(run)
    for entry in content["stages"]:
        assert entry.pop("seconds") > 0
    return content


def assert_same_end(run: Path, never_killed: Path) -> None:
    assert weights(run) == weights(never_killed)
    assert metrics(run) == metrics(never_killed)
    assert (run / "current").read_text() == (never_killed / "current").read_text()
    assert tree(run / "evaluations") == tree(never_killed / "evaluations")
    assert not (run / "checkpoint").exists()
    assert not (run / "add-task.json").exists()
    for version in RunDirectory(run).versions():
        RunDirectory(run).verify(version)


@STRATEGIES
def test_killed_anywhere_and_started_again(small_stream: Stream, tmp_path: Path, strategy: dict[str, Any]) -> None:
    """Kills before renames all over the run: inside both stages, while a checkpoint or a version is put in place."""
    settings = small_stream.settings(strategy, **SHORT)
    whole = comel.train(settings, tmp_path / "whole", quiet=True)
    renames = killed(lambda: comel.train(settings, tmp_path / "counted", quiet=True))
    assert weights(tmp_path / "counted") == weights(whole)
    assert renames > 20
    points = sorted(random.Random(strategy["name"]).sample(range(1, renames + 1), 4))
    for at in points:
        run = tmp_path / f"killed-{at}"
        assert killed(lambda run=run: comel.train(settings, run, quiet=True), at=at) == 1  # type: ignore[misc]
        comel.train(settings, run, quiet=True)
        assert_same_end(run, whole)


@pytest.mark.slow
@STRATEGIES
def test_killed_at_every_rename(small_stream: Stream, tmp_path: Path, strategy: dict[str, Any]) -> None:
    settings = small_stream.settings(strategy, **SHORT)
    whole = comel.train(settings, tmp_path / "whole", quiet=True)
    for at in range(1, killed(lambda: comel.train(settings, tmp_path / "counted", quiet=True)) + 1):
        run = tmp_path / f"killed-{at}"
        assert killed(lambda run=run: comel.train(settings, run, quiet=True), at=at) == 1  # type: ignore[misc]
        comel.train(settings, run, quiet=True)
        assert_same_end(run, whole)


def test_killed_again_and_again(small_stream: Stream, tmp_path: Path) -> None:
    """A process that never lives for more than a few renames gets there in the end."""
    settings = small_stream.settings(OWLORA, **SHORT)
    whole = comel.train(settings, tmp_path / "whole", quiet=True)
    lives = 1
    while killed(lambda: comel.train(settings, tmp_path / "run", quiet=True), at=13):
        lives += 1
        assert lives < 8
    assert lives >= 3
    assert_same_end(tmp_path / "run", whole)


HELD = """
import sys, time
from comel.app.cli import main
from comel.runs.directory import RunDirectory

event = RunDirectory.event

def hold(self, kind, **about):
    event(self, kind, **about)
    if kind == "epoch" and (about["stage"], about["epoch"]) == ({stage}, 1):
        sys.stdout.write("held")
        sys.stdout.flush()
        time.sleep(3600)

RunDirectory.event = hold
main()
"""


def held(stage: int, *arguments: object) -> subprocess.Popen[bytes]:
    """The command, when it has written that epoch 1 of a stage is over; there it stays."""
    command = [sys.executable, "-c", HELD.format(stage=stage), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.read(4) == b"held", process.communicate()[1].decode()
    return process


def test_the_command_killed_in_both_stages_then_resumed(small_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    """The real command, SIGKILL from outside: once in stage 1, again in stage 2; then ``--resume`` in this process."""
    import yaml

    plain = {"data": {"manifest": str(small_stream.manifest), "bags": str(small_stream.bags)}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**small_stream.settings(OWLORA, epochs=3, checkpoint_seconds=0), **plain}))
    run = tmp_path / "run"
    events = run / "events.jsonl"
    for stage in (0, 1):
        process = held(stage, "train", "--config", config, "--out", run, "--quiet")
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert RunDirectory(run).versions() == [1][:stage]
    code, _, said = comel_cli("train", "--resume", "--out", run, "--quiet")
    assert (code, said) == (0, "")
    started_from = [
        entry["checkpoint"] for entry in map(json.loads, events.read_text().splitlines()) if entry["event"] == "start"
    ]
    assert [place and place[0] for place in started_from] == [None, 0, 1]
    code, _, said = comel_cli("train", "--config", config, "--out", tmp_path / "whole", "--quiet")
    assert (code, said) == (0, "")
    assert_same_end(run, tmp_path / "whole")


@pytest.mark.slow
def test_interrupt_is_said_in_one_line(small_stream: Stream, tmp_path: Path) -> None:
    process = held(
        0, "train", "--manifest", small_stream.manifest, "--bags", small_stream.bags, "--out", tmp_path / "run", "--quiet",
        "--epochs", 3, "--set", "model.dim=32", "--set", "model.num_heads=4", "--set", "strategy.rank=4",
    )  # fmt: skip
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130
    assert said.decode() == "comel: interrupted; the same command continues where it stopped\n"


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small_stream: Stream, tmp_path: Path) -> None:
    runs = [
        comel.train(small_stream.settings(epochs=1, seed=seed), tmp_path / f"{i}", quiet=True)
        for i, seed in enumerate((1, 1, 2))
    ]
    assert weights(runs[0]) == weights(runs[1]) != weights(runs[2])


def test_what_does_not_decide_the_weights_may_change_between_the_parts(small_stream: Stream, tmp_path: Path) -> None:
    settings = small_stream.settings(**SHORT)
    assert killed(lambda: comel.train(settings, tmp_path / "run", quiet=True), at=15)
    changed = small_stream.settings(epochs=2, checkpoint_seconds=1000)
    changed["data"] = {**changed["data"], "cache_gib": 0}
    comel.train(changed, tmp_path / "run", quiet=True)
    assert_same_end(tmp_path / "run", comel.train(settings, tmp_path / "whole", quiet=True))


def test_other_settings_do_not_go_on_with_an_unfinished_run(small_stream: Stream, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert killed(lambda: comel.train(small_stream.settings(**SHORT), run, quiet=True), at=12)
    before = tree(run)
    with pytest.raises(RunError, match="unfinished run with other settings or another manifest; give --resume"):
        comel.train(small_stream.settings(epochs=3, checkpoint_seconds=0), run, quiet=True)
    assert tree(run) == before
    comel.train({}, run, resume=True, quiet=True)
    assert metrics(run)["finished"]


def test_another_manifest_under_the_same_name_does_not_go_on_with_an_unfinished_run(
    small_stream: Stream, tmp_path: Path
) -> None:
    stream = Stream(Path(shutil.copy(small_stream.manifest, tmp_path / "m.csv")), small_stream.bags, small_stream.rows)
    run, settings = tmp_path / "run", stream.settings(**SHORT)
    assert killed(lambda: comel.train(settings, run, quiet=True), at=12)
    write_manifest(stream.manifest, [{**row, "patient_id": row["slide_id"]} for row in stream.rows])
    for how in ({"config": settings}, {"config": {}, "resume": True}):
        with pytest.raises(RunError, match="unfinished run with other settings or another manifest"):
            comel.train(out=run, quiet=True, **how)
    write_manifest(stream.manifest, stream.rows)
    comel.train(settings, run, quiet=True)
    assert metrics(run)["finished"]


def test_a_corrected_mistake_is_what_a_later_part_is_compared_with(small_stream: Stream, tmp_path: Path) -> None:
    """Killed before anything was learned, started with other settings, killed again: the second settings go on."""
    run, settings = tmp_path / "run", small_stream.settings(**SHORT)
    assert killed(lambda: comel.train(small_stream.settings(epochs=3), run, quiet=True), at=2)
    assert killed(lambda: comel.train(settings, run, quiet=True), at=12)
    comel.train(settings, run, quiet=True)
    assert metrics(run)["finished"]


def test_stages_are_accounted_for(small_stream: Stream, tmp_path: Path) -> None:
    """Seconds are those of the epochs' events, an interrupted stage's too; parameters those that train."""
    run, settings = tmp_path / "run", small_stream.settings(FINETUNE, epochs=3, checkpoint_seconds=0)
    renames = killed(lambda: comel.train(settings, tmp_path / "counted", quiet=True))
    assert killed(lambda: comel.train(settings, run, quiet=True), at=renames - 20)
    with (run / "events.jsonl").open("a") as stream:
        stream.write('{"time": 1, "event": "epo\n')
    comel.train(settings, run, quiet=True)
    spent: dict[tuple[int, int], float] = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        if line.endswith("}") and (event := json.loads(line))["event"] == "epoch":
            spent[event["stage"], event["epoch"]] = event["seconds"]
    stages = scores_of(run)["stages"]
    for stage, entry in enumerate(stages):
        assert entry["seconds"] == pytest.approx(sum(value for (of, _), value in spent.items() if of == stage), abs=2e-3)
        assert entry["old_data_bytes"] == 0
    from safetensors.torch import load_file

    state = load_file(run / "versions" / "001" / "model.safetensors")
    trained = [value.numel() for name, value in state.items() if name.startswith(("trunk.", "bag_heads.", "instance_heads."))]
    assert stages[0]["trained_parameters"] == stages[1]["trained_parameters"] == sum(trained)


def test_a_mistake_before_anything_was_learned_may_be_corrected(small_stream: Stream, tmp_path: Path) -> None:
    run = tmp_path / "run"
    wrong = small_stream.settings(epochs=1)
    wrong["data"] = {**wrong["data"], "bags": tmp_path}
    with pytest.raises(
        BagError, match=r"no features of slide colon-00 .*, nor of \d+ slides \(colon-01, .*; extract the slides"
    ):
        comel.train(wrong, run, quiet=True)
    assert tree(run).keys() <= {".lock"}
    comel.train(small_stream.settings(epochs=1), run, quiet=True)
    assert metrics(run)["finished"]


def test_finished_and_foreign_folders_are_refused(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    before = tree(toy_run)
    with pytest.raises(RunError, match="holds a finished run"):
        comel.train(toy_stream.settings(), toy_run, quiet=True)
    with pytest.raises(RunError, match="holds a finished run"):
        comel.train({}, toy_run, resume=True, quiet=True)
    assert tree(toy_run) == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        comel.train(toy_stream.settings(), tmp_path, quiet=True)
    assert (tmp_path / "letter.txt").read_text() == "mine"


class TestAddTask:
    """Run of two tasks; the third comes later, from another folder, when the old bags are gone."""

    @pytest.fixture(scope="class", params=[OWLORA, FINETUNE], ids=["owlora", "finetune"])
    @classmethod
    def two_tasks(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_stream: Stream) -> Path:
        """A finished run whose bags and manifest do not exist any more."""
        folder = tmp_path_factory.mktemp("two")
        stream = Stream(folder / "manifest.csv", folder / "bags", small_stream.rows)
        shutil.copy(small_stream.manifest, stream.manifest)
        shutil.copytree(small_stream.bags, stream.bags)
        run = comel.train(stream.settings(request.param, **SHORT), folder / "run", quiet=True)
        shutil.rmtree(stream.bags)
        stream.manifest.unlink()
        return run

    def test_a_new_version_beside_the_old_ones(
        self, two_tasks: Path, small_stream: Stream, liver_stream: Stream, tmp_path: Path, comel_cli: Cli
    ) -> None:
        run = Path(shutil.copytree(two_tasks, tmp_path / "run"))
        old_files = tree(run / "versions")
        bags = [read_bag(small_stream.bag(slide)) for slide in ("colon-07", "kidney-06")]
        old = [Predictor.open(run).predict(bag).to_dict() for bag in bags]
        code, out, said = comel_cli("add-task", run, "--manifest", liver_stream.manifest, "--bags", liver_stream.bags, "--json")
        assert (code, said) == (0, "")
        told = json.loads(out)
        assert told["tasks"] == ["colon", "kidney", "liver"]
        assert told["stages"][-1].items() >= {"version": 3, "learned": ["liver"], "old_data_bytes": 0}.items()
        accuracy = told["matrices"]["bag"]["class_incremental"]["accuracy"]
        assert [len(row) for row in accuracy] == [3, 3, 3]
        assert accuracy[2][:2] == [None, None]
        assert accuracy[2][2] is not None
        assert {name: content for name, content in tree(run / "versions").items() if name in old_files} == old_files
        assert RunDirectory(run).info().version == 3
        assert Predictor.open(run).class_names[-2:] == ["liver/normal", "liver/tumour"]
        assert [Predictor.open(run, version=2).predict(bag).to_dict() for bag in bags] == old
        with pytest.raises(ConfigError, match="has learned the task 'liver' already"):
            comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
        with pytest.raises(ConfigError, match="has learned the task 'colon' already"):
            comel.add_task(run, small_stream.manifest, small_stream.bags, quiet=True)
        assert RunDirectory(run).versions() == [1, 2, 3]

    def test_killed_and_given_again(self, two_tasks: Path, liver_stream: Stream, tmp_path: Path) -> None:
        def teach(run: Path) -> Path:
            return comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)

        whole = teach(Path(shutil.copytree(two_tasks, tmp_path / "whole")))
        renames = killed(lambda: teach(Path(shutil.copytree(two_tasks, tmp_path / "counted"))))
        for at in (2, renames // 2, renames - 1, renames):
            run = Path(shutil.copytree(two_tasks, tmp_path / f"killed-{at}"))
            assert killed(lambda run=run: teach(run), at=at) == 1  # type: ignore[misc]
            assert Predictor.open(run).version in (2, 3)
            teach(run)
            assert_same_end(run, whole)

    def test_the_third_task_is_as_if_it_had_come_with_the_first_two(
        self, two_tasks: Path, liver_stream: Stream, tmp_path: Path
    ) -> None:
        """One stream of three tasks, and two and then one more, end with the same weights."""
        run = Path(shutil.copytree(two_tasks, tmp_path / "run"))
        comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
        together = tmp_path / "together"
        together.mkdir()
        first = write_stream(together / "stream", ("colon", "kidney"), slides=8)
        for path in liver_stream.bags.iterdir():
            shutil.copy(path, first.bags)
        both = Stream(write_manifest(together / "all.csv", first.rows + liver_stream.rows), first.bags, [])
        strategy = OWLORA if (run / "versions" / "002" / "adapters").exists() else FINETUNE
        assert weights(comel.train(both.settings(strategy, **SHORT), together / "run", quiet=True)) == weights(run)


def test_add_task_needs_a_finished_run(small_stream: Stream, liver_stream: Stream, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="no such run"):
        comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
    renames = killed(lambda: comel.train(small_stream.settings(**SHORT), tmp_path / "whole", quiet=True))
    assert killed(lambda: comel.train(small_stream.settings(**SHORT), run, quiet=True), at=renames - 12)
    assert RunDirectory(run).versions() == [1]
    with pytest.raises(RunError, match="the run is not finished; finish the training first"):
        comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
    comel.train({}, run, resume=True, quiet=True)
    comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
    assert RunDirectory(run).versions() == [1, 2, 3]


def test_an_interrupted_add_task_is_not_finished_by_train(toy_run: Path, liver_stream: Stream, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    overrides = ["trainer.epochs=2", "trainer.checkpoint_seconds=0"]

    def teach() -> Path:
        return comel.add_task(run, liver_stream.manifest, liver_stream.bags, overrides=overrides, quiet=True)

    renames = killed(teach)
    shutil.rmtree(run)
    shutil.copytree(toy_run, run)
    assert killed(teach, at=renames - 2)
    assert not metrics(run)["finished"]
    with pytest.raises(RunError, match="an add-task is not finished; give the same comel add-task command again"):
        comel.train({}, run, resume=True, quiet=True)
    teach()
    assert metrics(run)["finished"]
    assert RunDirectory(run).versions() == [1, 2, 3]


@pytest.mark.parametrize(
    "override", ["strategy.rank=2", "strategy={name: finetune}", "model.dim=64", "data.mode=domain-incremental"]
)
def test_add_task_does_not_change_the_model(toy_run: Path, liver_stream: Stream, override: str) -> None:
    before = tree(toy_run)
    with pytest.raises(ConfigError, match="stay as in the run"):
        comel.add_task(toy_run, liver_stream.manifest, liver_stream.bags, overrides=[override], quiet=True)
    assert tree(toy_run) == before


def test_joint_sees_all_tasks_at_once_and_takes_no_more(small_stream: Stream, liver_stream: Stream, tmp_path: Path) -> None:
    run = comel.train(small_stream.settings({"name": "joint"}, epochs=2), tmp_path / "run", quiet=True)
    assert RunDirectory(run).versions() == [1]
    assert [(entry["version"], entry["learned"]) for entry in metrics(run)["stages"]] == [(1, ["colon", "kidney"])]
    assert Predictor.open(run).class_names == ["colon/normal", "colon/tumour", "kidney/normal", "kidney/tumour"]
    with pytest.raises(ConfigError, match="'joint' needs all tasks at once; train a new run"):
        comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
    assert RunDirectory(run).versions() == [1]


def test_more_tasks_than_declared_are_refused(small_stream: Stream, liver_stream: Stream, tmp_path: Path) -> None:
    run = comel.train(small_stream.settings({**OWLORA, "tasks": 2}, epochs=1), tmp_path / "run", quiet=True)
    with pytest.raises(CapacityError, match=r"beyond the 2 tasks that strategy\.tasks declared"):
        comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
    assert RunDirectory(run).versions() == [1, 2]
    Predictor.open(run)


def write_bags_of(folder: Path, sizes: dict[str, int], contract: FeatureContract = CONTRACT) -> Stream:
    """One task whose slides have these numbers of instances; every second one is a tumour, all but two train."""
    generator = np.random.default_rng(1)
    rows = []
    for i, (slide, size) in enumerate(sizes.items()):
        features = generator.normal(size=(size, contract.dimension)) + (i % 2)
        write_bag(folder / "bags" / f"{slide}.h5", make_bag(slide, features, np.full(size, i % 2, np.int8), contract))
        split = "test" if i >= len(sizes) - 2 else "train"
        rows.append(
            {"slide_id": slide, "path": f"{slide}.tif", "label": ("normal", "tumour")[i % 2], "task": "colon", "split": split}
        )
    return Stream(write_manifest(folder / "manifest.csv", rows), folder / "bags", rows)


@STRATEGIES
def test_tiny_bags_train_and_predict(tmp_path: Path, strategy: dict[str, Any]) -> None:
    sizes = {f"s{i}": size for i, size in enumerate((1, 1, 2, 2, 3, 3, 17, 1, 1, 2))}
    stream = write_bags_of(tmp_path, sizes)
    run = comel.train(stream.settings(strategy, epochs=2), tmp_path / "run", quiet=True)
    for slide, size in sizes.items():
        prediction = Predictor.open(run).predict(read_bag(stream.bag(slide)))
        assert prediction.predicted_class in ("colon/normal", "colon/tumour")
        assert prediction.instance_scores.shape == (size,)


def test_an_empty_bag_predicts_nothing_and_is_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = write_bags_of(tmp_path, {"a": 4, "b": 4, "empty": 0, "c": 4, "d": 4, "e": 4})
    run = comel.train(stream.settings(epochs=1), tmp_path / "run")
    assert "training: left out slide empty of the training slides: no tissue\n" in capsys.readouterr().err
    trained = RunDirectory(run).info().tasks[0]
    assert "empty" not in trained.slides["train"]
    assert trained.training_cases == len(trained.slides["train"])
    rows = [dict(row) for row in stream.rows]
    next(row for row in rows if row["slide_id"] == "empty")["split"] = "test"
    write_manifest(stream.manifest, rows)
    prediction = Predictor.open(run).predict(read_bag(stream.bag("empty")))
    assert prediction.label is None
    assert prediction.predicted_class is None
    assert prediction.notes == ("no tissue",)
    assert comel.evaluate(run, stream.manifest, stream.bags, quiet=True)["tasks"]["colon"]["cases"] == 2


def test_no_validation_and_no_test_slides(small_stream: Stream, tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in small_stream.rows]
    stream = Stream(write_manifest(tmp_path / "train.csv", rows), small_stream.bags, rows)
    run = comel.train(stream.settings(epochs=1), tmp_path / "run", quiet=True)
    assert RunDirectory(run).info().tasks[0].threshold == 0.5
    assert RunDirectory(run).info().tasks[0].threshold_chosen_on == "default"
    assert metrics(run)["matrices"]["bag"]["class_incremental"]["accuracy"] == [[None, None], [None, None]]


def test_bags_that_do_not_belong_together_are_refused(liver_stream: Stream, toy_run: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    for name, contract, said in [
        ("dimension", replace(CONTRACT, dimension=16), "features of dimension 16 instead of 32"),
        ("encoder", replace(CONTRACT, encoder="uni"), "encoder uni instead of toy"),
        ("weights", replace(CONTRACT, weights_hash="ff" * 32), "other weights of toy"),
    ]:
        stream = write_bags_of(tmp_path / name, {"a": 3, "b": 3, "c": 3, "d": 3}, contract)
        run = Path(shutil.copytree(toy_run, tmp_path / name / "run"))
        rows = [{**row, "task": "liver"} for row in stream.rows]
        with pytest.raises(FeatureMismatch, match=said):
            comel.add_task(run, write_manifest(tmp_path / name / "liver.csv", rows), stream.bags, quiet=True)
        assert RunDirectory(run).versions() == [1, 2]
        with pytest.raises(FeatureMismatch, match=said):
            Predictor.open(run).predict(read_bag(stream.bag("a")))
        shutil.copy(liver_stream.bag("liver-00"), stream.bags / "b.h5")
        with pytest.raises(FeatureMismatch):
            comel.train(stream.settings(epochs=1), tmp_path / name / "new", quiet=True)


def test_a_missing_bag_is_found_before_training(toy_stream: Stream, tmp_path: Path) -> None:
    bags = Path(shutil.copytree(toy_stream.bags, tmp_path / "bags"))
    (bags / "liver-14.h5").unlink()
    stream = Stream(toy_stream.manifest, bags, toy_stream.rows)
    with pytest.raises(BagError, match="no features of slide liver-14"):
        comel.train(stream.settings(), tmp_path / "run", quiet=True)
    assert tree(tmp_path / "run").keys() <= {".lock"}


def test_a_truncated_bag_of_a_later_task_is_found_before_training(small_stream: Stream, tmp_path: Path) -> None:
    bags = Path(shutil.copytree(small_stream.bags, tmp_path / "bags"))
    stream = Stream(small_stream.manifest, bags, small_stream.rows)
    (bags / "kidney-00.h5").write_bytes((bags / "kidney-00.h5").read_bytes()[:3000])
    with pytest.raises(BagError, match=r"kidney-00\.h5: truncated"):
        comel.train(stream.settings(**SHORT), tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").versions() == []


@pytest.mark.parametrize(
    ("slide", "value"), [("colon-00", 1e25), ("kidney-00", np.nan), ("kidney-04", np.inf), ("kidney-06", -2e6)]
)
def test_a_bag_with_garbage_inside_is_named_before_training(
    slide: str, value: float, small_stream: Stream, tmp_path: Path
) -> None:
    """What no header tells: memory that was never written, in a bag of any split."""
    bags = Path(shutil.copytree(small_stream.bags, tmp_path / "bags"))
    for name in (slide, "kidney-07"):
        with h5py.File(bags / f"{name}.h5", "r+") as file:
            file["features"][0, 0] = value
    with pytest.raises(BagError, match=rf"{slide}\.h5: 1 of \d+ instances have .*; nor can slide kidney-07 be used; extract"):
        comel.train(small_stream.settings(**SHORT) | {"data": {**small_stream.settings()["data"], "bags": bags}},
                    tmp_path / "run", quiet=True)  # fmt: skip
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_a_bag_that_goes_bad_in_training_stops_it_and_is_gone_on_from(
    small_stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bags = Path(shutil.copytree(small_stream.bags, tmp_path / "bags"))
    stream = Stream(small_stream.manifest, bags, small_stream.rows)
    whole = (bags / "kidney-00.h5").read_bytes()
    publish = RunDirectory.publish

    def spoil(self: RunDirectory, *arguments: Any) -> None:
        with h5py.File(bags / "kidney-00.h5", "r+") as file:
            file["features"][0, 0] = np.nan
        publish(self, *arguments)

    monkeypatch.setattr(RunDirectory, "publish", spoil)
    settings = stream.settings(**SHORT)
    settings["data"]["cache_gib"] = 0
    with pytest.raises(BagError, match=r"kidney-00\.h5: 1 of \d+ instances"):
        comel.train(settings, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert RunDirectory(tmp_path / "run").versions() == [1]
    (bags / "kidney-00.h5").write_bytes(whole)
    comel.train(stream.settings(**SHORT), tmp_path / "run", quiet=True)
    assert_same_end(tmp_path / "run", comel.train(stream.settings(**SHORT), tmp_path / "whole", quiet=True))


def test_a_loss_that_explodes_is_said_and_publishes_nothing(small_stream: Stream, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stage 1, epoch \d: the loss '\w+' is not finite; lower trainer\.lr"):
        comel.train(small_stream.settings(FINETUNE, lr=1e30, epochs=6), tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").versions() == []


def test_domain_incremental_has_one_head(small_stream: Stream, liver_stream: Stream, tmp_path: Path) -> None:
    settings = small_stream.settings(epochs=4, lr=3e-3)
    settings["data"] = {**settings["data"], "mode": "domain-incremental"}
    run = comel.train(settings, tmp_path / "run", quiet=True)
    predictor = Predictor.open(run)
    assert predictor.class_names == ["normal", "tumour"]
    assert metrics(run)["matrices"]["bag"].keys() == {"domain_incremental"}
    scores = comel.evaluate(run, small_stream.manifest, small_stream.bags, quiet=True)
    assert scores["tasks"].keys() == {"colon", "kidney"}
    assert scores["tasks"]["colon"].keys() == {"cases", "domain_incremental"}
    prediction = predictor.predict(read_bag(small_stream.bag("kidney-06")))
    assert (prediction.mode, prediction.task) == ("domain-incremental", None)
    assert [len(row) for row in metrics(run)["matrices"]["bag"]["domain_incremental"]["auc"]] == [2, 2]
    assert prediction.predicted_class in ("normal", "tumour")
    assert predictor.predict(read_bag(small_stream.bag("kidney-06")), task="kidney").task == "kidney"
    with pytest.raises(ConfigError, match="has no task 'lung'; it knows colon, kidney"):
        predictor.predict(read_bag(small_stream.bag("kidney-06")), task="lung")
    turned = write_manifest(tmp_path / "liver.csv", list(reversed(liver_stream.rows)))
    comel.add_task(run, turned, liver_stream.bags, quiet=True)
    assert Predictor.open(run).class_names == ["normal", "tumour"]
    assert len(Predictor.open(run).tasks) == 3
    grade = write_manifest(
        tmp_path / "grade.csv", [{**row, "task": "lung", "label": row["label"] + "!"} for row in liver_stream.rows]
    )
    with pytest.raises(ManifestError, match="unknown label"):
        comel.add_task(run, grade, liver_stream.bags, quiet=True)


def test_a_strategy_of_ones_own_from_a_file(
    small_stream: Stream, liver_stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from comel.strategies.base import Strategy\n"
        "class HeadsOnly(Strategy):\n"
        "    def parameters(self, model, stage):\n"
        "        trunk, heads = super().parameters(model, stage)\n"
        "        model.trunk.requires_grad_(False)\n"
        "        return [heads]\n"
    )
    monkeypatch.chdir(tmp_path)
    run = comel.train(small_stream.settings({"name": "mine.py:HeadsOnly"}, epochs=2), tmp_path / "run", quiet=True)
    from safetensors.torch import load_file

    first, second = (load_file(run / "versions" / version / "model.safetensors") for version in ("001", "002"))
    trunk = [name for name in first if name.startswith("trunk.")]
    assert trunk
    assert all((first[name] == second[name]).all() for name in trunk)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(
        ConfigError, match=r"a run does not carry code; if you know that file and trust it, .* --trust mine\.py"
    ):
        comel.add_task(run, liver_stream.manifest, liver_stream.bags, quiet=True)
    (tmp_path / "mine.py").rename(elsewhere / "moved.py")
    comel.add_task(run, liver_stream.manifest, liver_stream.bags, trust=["moved.py"], quiet=True)
    assert RunDirectory(run).versions() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("class Other: pass\n", "defines no 'Mine'"),
        ("class Mine: pass\n", "is not a strategy"),
        ("x = (\n", "cannot be loaded"),
    ],
)
def test_a_file_that_holds_no_strategy_is_refused(small_stream: Stream, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(ConfigError, match=said):
        comel.train(small_stream.settings({"name": f"{tmp_path}/mine.py:Mine"}), tmp_path / "run", quiet=True)


@pytest.mark.parametrize("trainer", [{"max_instances": 5}, {"clip_norm": 0.5}, {"precision": "bfloat16"}], ids=str)
def test_options_of_the_trainer(small_stream: Stream, tmp_path: Path, trainer: dict[str, Any]) -> None:
    plain = comel.train(small_stream.settings(epochs=1), tmp_path / "plain", quiet=True)
    run = comel.train(small_stream.settings(epochs=1, **trainer), tmp_path / "run", quiet=True)
    assert weights(run) != weights(plain)
    assert metrics(run)["finished"]


def test_mistakes_leave_no_run(small_stream: Stream, tmp_path: Path) -> None:
    for section, value in [
        ("trainer", {**TRAINER, "epochs": 0}),
        ("strategy", {"name": "owlora", "rank": 0}),
        ("model", {"name": "comel", "dim": 30}),
    ]:
        with pytest.raises(ComelError):
            comel.train({**small_stream.settings(), section: value}, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run" / "config.yaml").exists(), section
