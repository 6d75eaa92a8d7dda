"""A training goes on with features of the kind that it began with, and says so in the words of add-task: after a kill, in the
middle of a stage, over folds and over orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import comel
from comel.bags.bag import read_bag, write_bag
from comel.bags.contract import FeatureContract
from comel.errors import ComelError, FeatureMismatch, RunError
from comel.runs import checkpoint
from comel.runs.directory import RunDirectory
from tests.comel.toys import CONTRACT, FINETUNE, Stream, make_bag, write_stream

TASKS = ("colon", "kidney")
OTHERS = {
    "another encoder": (replace(CONTRACT, encoder="other"), "encoder other instead of toy"),
    "other weights": (replace(CONTRACT, weights_hash="cd" * 32), "other weights of toy"),
    "another dimension": (replace(CONTRACT, dimension=16), "features of dimension 16 instead of 32"),
    "another resolution": (replace(CONTRACT, mpp=1.0), "tiles at 1 um/px instead of 0.5"),
    "larger tiles": (replace(CONTRACT, tile_size=512), "tiles of 512 px instead of 256"),
}


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return write_stream(tmp_path / "stream", TASKS)


def extract_anew(stream: Stream, contract: FeatureContract) -> None:
    """The same slides with other features."""
    for path in stream.bags.iterdir():
        old = read_bag(path)
        assert old.geometry is not None
        assert contract.tile_size is not None
        assert contract.mpp is not None
        geometry = replace(old.geometry, patch_size=contract.tile_size, mpp_x=contract.mpp, mpp_y=contract.mpp)
        new = make_bag(old.slide_id, old.features[:, : contract.dimension], old.labels, contract)
        write_bag(path, replace(new, geometry=geometry))


def stop(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, *, after: int = 1) -> None:
    """End the training as a kill would, right after a call of this function."""
    original, calls = getattr(target, name), iter(range(1, 100))

    def stopping(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        if next(calls) == after:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(target, name, stopping)


def killed(stream: Stream, run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Path]:
    """The settings of a run that was killed once its first checkpoint was written, and what that says of itself."""
    settings = stream.settings(FINETUNE, epochs=2, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        stop(patch, checkpoint, "write")
        with pytest.raises(KeyboardInterrupt):
            comel.train(settings, run, quiet=True)
    return settings, run / "checkpoint" / "progress.json"


def refused(work: Callable[[], object], said: str) -> None:
    with pytest.raises(FeatureMismatch) as error:
        work()
    assert said in str(error.value)
    assert ".h5: " in str(error.value)


@pytest.mark.parametrize(
    ("kind", "when"), [*((kind, "in the first stage") for kind in OTHERS), ("another encoder", "between two stages")]
)
def test_a_killed_training_goes_on_with_the_same_features_alone(
    kind: str, when: str, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract, said = OTHERS[kind]
    settings = stream.settings(FINETUNE, epochs=2, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        stop(patch, *((checkpoint, "write") if when == "in the first stage" else (RunDirectory, "publish")))
        with pytest.raises(KeyboardInterrupt):
            comel.train(settings, tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    before = run.versions()
    assert before == ([] if when == "in the first stage" else [1])
    whole = {path: path.read_bytes() for path in stream.bags.iterdir()}
    extract_anew(stream, contract)
    refused(lambda: comel.train(settings, run.path, quiet=True), said)
    refused(lambda: comel.train({}, run.path, resume=True, quiet=True), said)
    assert run.versions() == before
    for path, content in whole.items():
        path.write_bytes(content)
    comel.train(settings, run.path, quiet=True)
    assert run.versions() == [1, 2]


def test_add_task_says_the_same(stream: Stream, tmp_path: Path) -> None:
    run = comel.train(stream.settings(FINETUNE, tasks=["colon"], epochs=1), tmp_path / "run", quiet=True)
    for contract, said in OTHERS.values():
        extract_anew(stream, contract)
        refused(lambda: comel.add_task(run, stream.manifest, stream.bags, tasks=["kidney"], quiet=True), said)
        extract_anew(stream, CONTRACT) if contract.dimension == CONTRACT.dimension else write_again(stream)
    assert RunDirectory(run).versions() == [1]


def write_again(stream: Stream) -> None:
    for path in stream.bags.iterdir():
        write_bag(path, make_bag(path.stem, np.random.default_rng(0).normal(size=(5, CONTRACT.dimension))))


@pytest.mark.parametrize("kind", ["another encoder", "another dimension"])
def test_folds_and_orders_are_of_one_kind_of_features(
    kind: str, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract, said = OTHERS[kind]
    settings = stream.settings(FINETUNE, epochs=1, checkpoint_seconds=0)
    works: dict[str, Callable[[], object]] = {
        "folds": lambda: comel.train_folds(settings, tmp_path / "folds", folds=2, quiet=True),
        "orders": lambda: comel.train_orders(settings, tmp_path / "orders", orders=2, quiet=True),
    }
    for name, work in works.items():
        with monkeypatch.context() as patch:
            stop(patch, RunDirectory, "publish", after=2)  # the first run is learned whole, the second not begun
            with pytest.raises(KeyboardInterrupt):
                work()
        assert len(list((tmp_path / name).glob("*/versions/*"))) == 2
    extract_anew(stream, contract)
    for work in works.values():
        refused(work, said)


def test_runs_that_have_learned_from_two_kinds_are_not_put_together(stream: Stream, tmp_path: Path) -> None:
    settings = stream.settings(FINETUNE, epochs=1)
    comel.train_folds(settings, tmp_path / "folds", folds=2, quiet=True)
    model = tmp_path / "folds" / "fold-1" / "versions" / "002" / "model.json"
    content = json.loads(model.read_text())
    content["contract"]["encoder"] = "other"
    model.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"fold-1: has learned from encoder other instead of toy in the other runs"):
        comel.train_folds(settings, tmp_path / "folds", folds=2, quiet=True)


def test_a_checkpoint_of_before_contracts_were_kept_goes_on(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As version 0.1.0 left it: of another dimension it is told by the weights."""
    settings, progress = killed(stream, tmp_path / "run", monkeypatch)
    content = json.loads(progress.read_text())
    del content["contract"]
    progress.write_text(json.dumps(content))
    whole = {path: path.read_bytes() for path in stream.bags.iterdir()}
    extract_anew(stream, OTHERS["another dimension"][0])
    with pytest.raises(ComelError, match=r"does not fit the model: .* is \[.*32.*\] and should be \[.*16.*\]"):
        comel.train(settings, tmp_path / "run", quiet=True)
    for path, old in whole.items():
        path.write_bytes(old)
    comel.train(settings, tmp_path / "run", quiet=True)
    assert RunDirectory(tmp_path / "run").versions() == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "one"},
        {"epoch": -1},
        {"contract": {"encoder": "toy"}},
        {"contract": []},
        {"contract": {"encoder": 1, "weights_hash": None, "dimension": 10**12, "mpp": -1.0, "tile_size": 0}},
    ],
)
def test_a_damaged_checkpoint_says_what_to_remove(
    change: dict[str, Any], stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, progress = killed(stream, tmp_path / "run", monkeypatch)
    progress.write_text(json.dumps(json.loads(progress.read_text()) | change))
    with pytest.raises(
        RunError, match=r"progress\.json: damaged.*; remove the folder .*/run/checkpoint: the stage then restarts"
    ):
        comel.train(settings, tmp_path / "run", quiet=True)
