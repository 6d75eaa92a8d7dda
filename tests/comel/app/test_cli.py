"""The command line: exit codes, one line for every mistake, nothing left behind, and the same words from Python."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

import comel
from comel.app.cli import app
from comel.app.schemas import EvaluateOptions
from comel.bags.bag import write_bag
from comel.base.progress import progress_bar
from comel.cohort.manifest import read_manifest
from comel.errors import ComelError
from comel.runs.config import load_config
from comel.runs.directory import RunDirectory
from comel.training.train import settings_for_new_tasks
from tests.comel.toys import CONTRACT, DIMENSION, Stream, make_bag, scores_of, tree, write_manifest
from tests.places import ROOT

Cli = Callable[..., tuple[int, str, str]]
TINY = [
    "--set", "model={name: comel, dim: 32, attention_hidden: 16, blocks: 1, num_heads: 4, region_size: 4}",
    "--set", "strategy.rank=4", "--set", "strategy.tasks=4", "--set", "trainer.threads=1",
]  # fmt: skip


@pytest.fixture
def cohort(toy_stream: Stream, tmp_path: Path) -> Stream:
    """A copy of the stream that may be spoilt."""
    bags = Path(shutil.copytree(toy_stream.bags, tmp_path / "bags"))
    rows = [dict(row) for row in toy_stream.rows]
    return Stream(write_manifest(tmp_path / "m.csv", rows), bags, rows)


def train_words(stream: Stream, out: Path, *more: object) -> tuple[object, ...]:
    return ("train", "--manifest", stream.manifest, "--bags", stream.bags, "--out", out, "--epochs", 1, "-q", *TINY, *more)


def one_line(code: int, said: str) -> str:
    """The message of a command that was refused."""
    assert code == 2
    assert said.startswith("comel: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said.removeprefix("comel: ").strip()


def test_from_training_to_prediction(toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    run = tmp_path / "run"
    code, out, said = comel_cli(*train_words(toy_stream, run, "--set", "data.tasks=[colon, kidney]", "--strategy", "owlora"))
    assert (code, said) == (0, "")
    assert out.startswith(f"run: {run}, 2 versions, tasks colon, kidney\n")
    assert "class_incremental accuracy" in out
    code, out, said = comel_cli(
        "add-task", run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags, "--task", "liver", "-q"
    )
    assert (code, said) == (0, "")
    assert "3 versions, tasks colon, kidney, liver" in out
    code, out, said = comel_cli("evaluate", run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags, "--json")
    assert (code, said) == (0, "")
    assert json.loads(out)["tasks"].keys() == {"colon", "kidney", "liver"}
    code, _, said = comel_cli("predict", run, toy_stream.bag("liver-01"), "--version", 3, "--out", tmp_path / "out", "-q")
    assert (code, said) == (0, "")
    assert (tmp_path / "out" / "liver-01.png").exists()


def test_train_tells_json(toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    words = train_words(toy_stream, tmp_path / "run", "--set", "strategy={name: finetune}", "--json")
    code, out, said = comel_cli(*words)
    assert (code, said) == (0, "")
    assert json.loads(out) == scores_of(tmp_path / "run")


def drop_column(stream: Stream) -> None:
    write_manifest(stream.manifest, [{k: v for k, v in row.items() if k != "label"} for row in stream.rows])


def edit(number: int, **cells: str) -> Callable[[Stream], None]:
    def spoil(stream: Stream) -> None:
        stream.rows[number].update(cells)
        write_manifest(stream.manifest, stream.rows)

    return spoil


def set_nan(stream: Stream) -> None:
    with h5py.File(stream.bag("colon-00"), "r+") as file:
        file["features"][0, 0] = np.nan


def truncate(stream: Stream) -> None:
    path = stream.bag("colon-00")
    path.write_bytes(path.read_bytes()[:1500])


def other_dimension(stream: Stream) -> None:
    from dataclasses import replace

    write_bag(stream.bag("colon-01"), make_bag("colon-01", np.ones((4, 16)), contract=replace(CONTRACT, dimension=16)))


def other_encoder(stream: Stream) -> None:
    from dataclasses import replace

    write_bag(stream.bag("colon-01"), make_bag("colon-01", np.ones((4, DIMENSION)), contract=replace(CONTRACT, encoder="uni")))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop_column, "m.csv has no column label"),
        (edit(2, slide_id="colon-00"), "m.csv row 4 column slide_id: 'colon-00' is already in row 2"),
        (edit(3, path="../../etc/passwd"), "row 5 column path: '../../etc/passwd' leaves the folder"),
        (edit(3, slide_id="../colon-00"), "row 5 column slide_id: '../colon-00' holds a path separator"),
        (edit(3, label=""), "row 5 column label: is empty"),
        (edit(3, split="training"), "row 5 column split: 'training' is not one of train, val, test"),
        (lambda stream: stream.manifest.write_text(""), "the file is empty"),
        (lambda stream: stream.manifest.unlink(), "No such file or directory"),
        (lambda stream: stream.bag("liver-03").unlink(), "no features of slide liver-03 (looked for liver-03.h5"),
        (lambda stream: shutil.rmtree(stream.bags), "no such folder; extract the slides first"),
    ],
)
def test_bad_input_is_found_before_a_run_begins(
    cohort: Stream, tmp_path: Path, comel_cli: Cli, spoil: Callable[[Stream], object], said: str
) -> None:
    spoil(cohort)
    code, out, told = comel_cli(*train_words(cohort, tmp_path / "run"))
    assert said in one_line(code, told)
    assert out == ""
    assert tree(tmp_path / "run").keys() <= {".lock"}


def test_paths_of_a_manifest_may_start_elsewhere(cohort: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    """Absolute paths, as most cohorts' tables have them."""
    rows = [{**row, "path": f"/data/slides/{row['path']}"} for row in cohort.rows]
    write_manifest(cohort.manifest, rows)
    run, data = tmp_path / "run", ("--manifest", cohort.manifest, "--bags", cohort.bags)
    learning = train_words(cohort, run, "--set", "data.tasks=[colon]")
    code, _, said = comel_cli(*learning)
    assert "leaves the folder" in one_line(code, said)
    root = ("--root", "/data/slides")
    for command in (
        learning,
        ("evaluate", run, *data, "--task", "colon", "-q"),
        ("add-task", run, *data, "--task", "kidney", "-q"),
    ):
        assert comel_cli(*command, *root)[::2] == (0, "")


def test_slides_without_features_are_counted_and_may_be_left_out(cohort: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    for slide in ("colon-00", "colon-01", "kidney-03"):
        cohort.bag(slide).unlink()
    (cohort.bags / "failures.csv").write_text("")
    words = train_words(cohort, tmp_path / "run", "--set", "data.tasks=[colon, kidney]")
    code, _, said = comel_cli(*words)
    told = one_line(code, said)
    assert "no features of slide colon-00 (looked for colon-00.h5, " in told
    assert "nor of 2 slides (colon-01, kidney-03); extract the slides first (failures.csv there says why" in told
    assert told.endswith("or leave them out: --skip-missing")
    code, _, said = comel_cli(*(word for word in words if word != "-q"), "--skip-missing")
    assert code == 0
    left_out = f"left out 3 slides (colon-00, colon-01, kidney-03): no features in {cohort.bags}"
    assert f"training: {left_out}\n" in said
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert next(event for event in events if event["event"] == "start")["notes"] == [left_out]
    data = ("--manifest", cohort.manifest, "--bags", cohort.bags, "--task", "colon", "--split", "all")
    assert "no features of slide colon-00" in one_line(*comel_cli("evaluate", tmp_path / "run", *data)[::2])
    code, out, _ = comel_cli("evaluate", tmp_path / "run", *data, "--skip-missing", "-q")
    assert (code, out.split("\n")[0]) == (0, "colon: 14 cases")


def test_labels_that_may_be_meant_otherwise_are_told(cohort: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    rows = [{**row, "label": {"normal": "0", "tumour": "1"}[row["label"]]} for row in cohort.rows]
    write_manifest(cohort.manifest, rows)
    words = [word for word in train_words(cohort, tmp_path / "run", "--set", "data.tasks=[colon]") if word != "-q"]
    code, _, said = comel_cli(*words)
    assert code == 0
    assert "colon: no label is 'normal', so 0, 1 all count as findings; if one means that there is none, give --set" in said
    assert "data.negative=0\n" in said
    words[words.index("--out") + 1] = tmp_path / "other"
    code, _, said = comel_cli(*words, "--set", "data.negative=0")
    assert code == 0
    assert "count as findings" not in said
    rows[0]["label"] = "Tumour"
    rows[1]["label"] = "tumour"
    write_manifest(cohort.manifest, rows)
    words[words.index("--out") + 1] = tmp_path / "third"
    _, _, said = comel_cli(*words)
    assert "colon: 'Tumour' and 'tumour' are two labels; correct the manifest if they are one" in said


def test_the_encoder_of_unnamed_features_is_said_in_every_command(cohort: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    from dataclasses import replace

    from comel.bags.bag import read_bag

    run, tasks = tmp_path / "run", ("--set", "data.tasks=[colon, kidney]")
    assert comel_cli(*train_words(cohort, run, *tasks))[0] == 0
    for path in cohort.bags.glob("*.h5"):
        bag = read_bag(path)
        write_bag(path, replace(bag, contract=replace(bag.contract, encoder=None)))
    data = ("--manifest", cohort.manifest, "--bags", cohort.bags)
    for words in (
        train_words(cohort, tmp_path / "another", *tasks),
        ("evaluate", run, *data, "--task", "colon", "-q"),
        ("add-task", run, *data, "--task", "liver", "-q"),
    ):
        if words[0] != "train":
            assert "give --assume-encoder toy" in one_line(*comel_cli(*words)[::2])
        assert comel_cli(*words, "--assume-encoder", "toy")[::2] == (0, "")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tasks=[liver]", "give --task"),
        ("root=/x", "give --root"),
        ("labels={liver: [tumour, normal]}", "those of its manifest"),
    ],
)
def test_add_task_says_which_settings_it_does_not_take(
    name: str, remedy: str, toy_run: Path, toy_stream: Stream, comel_cli: Cli
) -> None:
    words = ("add-task", toy_run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags, "--set", f"data.{name}")
    said = one_line(*comel_cli(*words)[::2])
    assert "is not a setting of add-task" in said
    assert remedy in said


def test_add_task_takes_a_file_of_settings_over_those_of_the_run(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli
) -> None:
    words = ("add-task", toy_run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags, "--config")
    file = tmp_path / "more.yaml"
    file.write_text("data: {tasks: [liver]}\n")
    assert "data.tasks is not a setting of add-task; give --task" in one_line(*comel_cli(*words, file)[::2])
    file.write_text("trainer: {epochs: many}\n")
    assert f"{file}: trainer.epochs: Input should be a valid integer" in one_line(*comel_cli(*words, file)[::2])
    file.write_text("trainer: {epochs: 4, lr: 0.5, seed: 3}\n")
    over: dict[str, Any] = {"config": file, "overrides": ["trainer.lr=0.25", "trainer.seed=4"], "settings": {"trainer.seed": 5}}
    new = settings_for_new_tasks(
        RunDirectory(toy_run), read_manifest(toy_stream.manifest), toy_stream.bags, ["liver"], None, **over
    )
    old = load_config(toy_run / "config.yaml")
    assert (new.trainer.epochs, new.trainer.lr, new.trainer.seed) == (4, 0.25, 5)
    assert (new.trainer.threads, new.strategy["name"], new.data.tasks) == (old.trainer.threads, "owlora", ["liver"])


def test_resume_takes_no_other_settings_and_wants_a_run(tmp_path: Path, comel_cli: Cli) -> None:
    said = one_line(*comel_cli("train", "--resume", "--out", tmp_path / "run", "--epochs", 2)[::2])
    assert said.startswith("--resume uses the run's settings; leave the other settings out")
    said = one_line(*comel_cli("train", "--resume", "--out", tmp_path / "run")[::2])
    assert "holds no run to resume" in said


def test_a_folder_of_folds_names_its_runs(tmp_path: Path, toy_stream: Stream, comel_cli: Cli) -> None:
    folds = tmp_path / "folds"
    (folds / "fold-0").mkdir(parents=True)
    data = ("--manifest", toy_stream.manifest, "--bags", toy_stream.bags)
    for words in (
        ("report", folds),
        ("evaluate", folds, *data),
        ("predict", folds, toy_stream.bag("colon-00"), "--out", tmp_path / "out"),
        ("train", "--resume", "--out", folds),
    ):
        said = one_line(*comel_cli(*words)[::2])
        assert f"it holds one run per fold: name one or several of them, such as {folds / 'fold-0'}" in said


@pytest.mark.parametrize(
    ("header", "remedy"),
    [
        ("Slide_ID,path,label,task", "call the column 'Slide_ID' 'slide_id'"),
        ("slide_id,path,label,tasks", "call the column 'tasks' 'task'"),
        ("slide_id,path,label", "add it, or write the manifest by a command: comel manifest --help"),
        ("slide_id path label task", "separate columns by commas"),
    ],
)
def test_a_missing_column_comes_with_what_to_do(
    header: str, remedy: str, cohort: Stream, tmp_path: Path, comel_cli: Cli
) -> None:
    cohort.manifest.write_text(f"{header}\na,a.svs,normal,colon\n")
    assert one_line(*comel_cli(*train_words(cohort, tmp_path / "run"))[::2]).endswith(remedy)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (set_nan, "colon-00.h5: 1 of"),
        (truncate, "colon-00.h5: truncated or not HDF5"),
        (lambda stream: stream.bag("colon-00").write_bytes(b""), "colon-00.h5: the file is empty"),
        (other_dimension, "colon-01.h5: features of dimension 16 instead of 32"),
        (other_encoder, "colon-01.h5: encoder uni instead of toy"),
    ],
)
def test_bad_bags_publish_nothing(
    cohort: Stream, tmp_path: Path, comel_cli: Cli, spoil: Callable[[Stream], object], said: str
) -> None:
    spoil(cohort)
    code, _, told = comel_cli(*train_words(cohort, tmp_path / "run"))
    assert said in one_line(code, told)
    assert not (tmp_path / "run" / "versions").exists()
    assert not (tmp_path / "run" / "current").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "trainer.epoch=3"], "unknown key 'trainer.epoch'; did you mean 'epochs'?"),
        (["--set", "trainer.lr"], "--set trainer.lr: no '='"),
        (["--set", "trainer.lr=[1"], "the value is not YAML"),
        (["--strategy", "owlor"], "no 'owlor'; did you mean 'owlora'?"),
        (["--set", "model.name=comet"], "no 'comet'; did you mean 'comel'?"),
        (["--set", "data.tasks=[lung]"], "no slide of task 'lung'; its tasks are colon, kidney, liver"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--set", "trainer.device=gpu"], "no device 'gpu'; give auto, cpu, cuda or cuda:N"),
        (["--set", "data.labels={colon: [normal, adenoma]}"], "unknown label 'tumour'"),
        (["--set", "data.test_fraction=2"], "data.test_fraction"),
    ],
)
def test_bad_settings(toy_stream: Stream, tmp_path: Path, comel_cli: Cli, more: list[str], said: str) -> None:
    code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "run", *more))
    assert said in one_line(code, told)
    assert tree(tmp_path / "run").keys() <= {".lock"}


def test_options_of_one_strategy_given_to_another(toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"strategy": {"name": "owlora", "rank": 4}}))
    words = (
        "train",
        "--config",
        config,
        "--manifest",
        toy_stream.manifest,
        "--bags",
        toy_stream.bags,
        "--out",
        tmp_path / "run",
    )
    code, _, told = comel_cli(*words, "--strategy", "finetune")
    assert "strategy: unknown key 'rank'; leave it out" in one_line(code, told)


@pytest.mark.parametrize("command", ["predict", "evaluate", "add-task"])
def test_a_run_that_is_not_there_or_not_finished(toy_stream: Stream, tmp_path: Path, comel_cli: Cli, command: str) -> None:
    words: dict[str, tuple[object, ...]] = {
        "predict": (toy_stream.bag("colon-00"), "--out", tmp_path / "out"),
        "evaluate": ("--manifest", toy_stream.manifest, "--bags", toy_stream.bags),
        "add-task": ("--manifest", toy_stream.manifest, "--bags", toy_stream.bags),
    }
    code, _, told = comel_cli(command, tmp_path / "run", *words[command])
    assert "no such run" in one_line(code, told)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    code, _, told = comel_cli(command, tmp_path / "run", *words[command])
    assert "holds no finished version; finish the training" in one_line(code, told)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_and_one_not_writable(toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "m"))
    assert code == 0, told
    code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "m"))
    assert "holds a finished run" in one_line(code, told)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "full"))
    assert "is not empty and holds no run" in one_line(code, told)
    (tmp_path / "file").write_text("")
    code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "file"))
    assert "check the path, its permissions and the disk" in one_line(code, told)
    if os.geteuid():
        (tmp_path / "closed").mkdir()
        (tmp_path / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
        code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "closed"))
        assert "Permission denied" in one_line(code, told)


def test_two_inputs_of_one_name(toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli) -> None:
    twin = shutil.copy(toy_stream.bag("colon-00"), tmp_path)
    code, _, told = comel_cli("predict", toy_run, toy_stream.bag("colon-00"), twin, "--out", tmp_path / "out")
    assert "would both be 'colon-00'" in one_line(code, told)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_publishes_nothing(
    toy_stream: Stream, tmp_path: Path, comel_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    import safetensors.torch

    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run"))

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "run"))
    assert "No space left on device; check the path, its permissions and the disk" in one_line(code, told)
    assert not (tmp_path / "run" / "current").exists()
    assert not [path for path in (tmp_path / "run" / "versions").iterdir() if path.name.isdigit()]
    code, _, told = comel_cli(*train_words(toy_stream, tmp_path / "run"))
    assert (code, told) == (0, "")


def test_an_interrupt_says_what_to_do(toy_run: Path, comel_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("comel.app.predict.slides.predict_each", interrupt)
    code, _, told = comel_cli("predict", toy_run, tmp_path / "x.h5", "--out", tmp_path)
    assert code == 130
    assert told.strip() == "comel: interrupted; the same command continues where it stopped"


def test_a_defect_of_ours_keeps_its_traceback(
    toy_run: Path, comel_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("comel.app.predict.slides.predict_each", fail)
    with pytest.raises(ZeroDivisionError):
        comel_cli("predict", toy_run, tmp_path / "x.h5", "--out", tmp_path)


@pytest.mark.parametrize("words", [("trian",), ("train",), ("evaluate", "run", "--version", "two")])
def test_words_that_the_command_does_not_know(comel_cli: Cli, words: tuple[str, ...]) -> None:
    code, out, told = comel_cli(*words)
    assert code == 2
    assert out == ""
    assert told.startswith("Usage: comel")
    assert "Traceback" not in told


def test_the_version_is_said(comel_cli: Cli) -> None:
    assert comel_cli("--version") == (0, f"comel {comel.__version__}\n", "")
    assert "__version__" in dir(comel)
    done = subprocess.run([sys.executable, "-m", "comel", "--version"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, f"comel {comel.__version__}\n")


def test_verbose_shows_where_an_error_comes_from(comel_cli: Cli, tmp_path: Path) -> None:
    words = ("inspect", tmp_path / "none.svs")
    code, out, short = comel_cli(*words)
    assert (code, out) == (2, "")
    assert "no such file" in one_line(code, short)
    with root_logging():
        code, out, long = comel_cli("-v", *words)
    assert (code, out) == (2, "")
    assert long.startswith("Traceback (most recent call last):")
    assert long.endswith(short)
    assert comel_cli(*words) == (2, "", short)


def test_verbose_shows_what_is_logged(comel_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comel.app.api.synth", lambda *_, **__: logging.getLogger("library").info("said in passing"))
    with root_logging():
        assert re.search(r"INFO library: said in passing\n$", comel_cli("--verbose", "synth", tmp_path)[2])
    assert comel_cli("synth", tmp_path)[2] == ""


@contextmanager
def root_logging() -> Iterator[None]:
    """Without pytest's own handlers, which would keep ``-v`` from setting up any; and all as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        logging.captureWarnings(False)


def test_bags_check(cohort: Stream, comel_cli: Cli) -> None:
    code, out, said = comel_cli("bags", "check", cohort.bags)
    assert (code, said) == (0, "")
    assert len(out.splitlines()) == 48
    assert out.splitlines()[0].endswith("x 32, toy")
    truncate(cohort)
    with h5py.File(cohort.bag("colon-01"), "r+") as file:
        file["features"][0, 0] += 1
    code, out, _ = comel_cli("bags", "check", cohort.bag("colon-00"), cohort.bag("colon-01"), cohort.bag("colon-02"), "--json")
    assert code == 1
    first, second, third = json.loads(out)
    assert "truncated" in first["error"]
    assert "does not match its checksum" in second["error"]
    assert (third["dimension"], third["encoder"], third["positive_instances"]) == (DIMENSION, "toy", 0)
    code, _, said = comel_cli("bags", "check", cohort.manifest.parent / "empty")
    assert code in (1, 2)


def test_python_has_the_commands_and_their_words() -> None:
    """Every command is a function of the package, and its options are the function's words."""
    for command in app.registered_commands:
        assert command.callback is not None
        assert callable(getattr(comel, command.callback.__name__))
    assert set(EvaluateOptions.model_fields) <= set(inspect.signature(comel.evaluate).parameters)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        comel.trian  # noqa: B018
    assert set(comel.__all__) <= set(dir(comel))


def test_python_takes_plain_values(toy_stream: Stream, tmp_path: Path) -> None:
    """Text for paths, dictionaries for settings, and every function after every other."""

    def text(path: Path) -> Any:
        return str(path)

    data: dict[str, Any] = {"manifest": str(toy_stream.manifest), "bags": str(toy_stream.bags), "tasks": ["colon"]}
    settings = {**toy_stream.settings(epochs=1), "data": data}
    run = comel.train(settings, text(tmp_path / "run"), quiet=True)
    comel.add_task(text(run), data["manifest"], data["bags"], tasks=["kidney"], quiet=True)
    rows = [row for row in toy_stream.rows if row["task"] != "liver"]
    scores = comel.evaluate(text(run), text(write_manifest(tmp_path / "m.csv", rows)), data["bags"], quiet=True)
    assert scores["version"] == 2
    results = comel.predict(text(run), [text(toy_stream.bag("colon-00"))], text(tmp_path / "out"), quiet=True)
    assert not isinstance(results[0], ComelError)
    comel.train(settings, tmp_path / "again", quiet=True)
    with pytest.raises(ComelError):
        comel.train({"trainer": {"epoch": 1}}, tmp_path / "no", quiet=True)


def test_progress_off_a_terminal_is_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(3, "work") as advance:
        advance(2, text="first")
        advance(text="last")
    assert capsys.readouterr().err == "work: 3 of 3, 0 s, done  last\n"
    with progress_bar(None, "work", quiet=True) as advance:
        advance()
    with progress_bar(None, "work") as advance:
        advance()
    assert capsys.readouterr().err == "work: 1, 0 s, done\n"


def test_progress_on_a_terminal_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar(2, "work") as advance:
        advance(2, text="both")
    assert "2/2" in capsys.readouterr().err
