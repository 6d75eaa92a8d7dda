"""Early stopping: by validation cases of the stage alone, back to the best weights, and the same after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import comel
from comel.bags.bag import read_bag, write_bag
from comel.cohort.classes import Head
from comel.errors import BagError, ConfigError, RunError
from comel.models.base import BagBatch
from comel.models.batch import make_batch
from comel.models.comel import CoMEL, CoMELOptions
from comel.runs.directory import RunDirectory
from comel.runs.weights import build_model, load_state
from comel.training.early_stopping import EarlyStopping, validation_loss
from tests.comel.toys import (
    DIMENSION,
    FINETUNE,
    MODEL,
    OWLORA,
    Stream,
    killed,
    make_bag,
    scores_of,
    write_manifest,
    write_stream,
)

STRATEGIES = pytest.mark.parametrize("strategy", [OWLORA, FINETUNE], ids=["owlora", "finetune"])
SHORT: dict[str, Any] = {"epochs": 12, "lr": 3e-2, "early_stopping": 2, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return write_stream(tmp_path_factory.mktemp("small"), ("colon", "kidney"), slides=8)


def weights(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "versions").rglob("*.safetensors"))}


def epochs(run: Path) -> dict[int, list[dict[str, Any]]]:
    """The newest event of each epoch, by stage."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for event in map(json.loads, (run / "events.jsonl").read_text().splitlines()):
        if event["event"] == "epoch":
            found.setdefault(event["stage"], {})[event["epoch"]] = event
    return {stage: list(of_stage.values()) for stage, of_stage in found.items()}


@pytest.fixture
def model() -> CoMEL:
    torch.manual_seed(0)
    options = CoMELOptions.model_validate({key: value for key, value in MODEL.items() if key != "name"})
    return CoMEL(6, options, heads=[Head("a", ("normal", "tumour"), "normal"), Head("b", ("x", "y", "z"), None)])


def some_bags() -> list[tuple[BagBatch, int]]:
    generator = torch.Generator().manual_seed(1)
    return [(BagBatch(torch.randn(1, size, 6, generator=generator)), column) for size, column in ((5, 0), (3, 4), (1, 2))]


def test_the_validation_loss_is_over_the_columns_of_the_bags_head(model: CoMEL) -> None:
    model.train()
    got = validation_loss(model, some_bags())
    losses = []
    for batch, column in some_bags():
        with torch.no_grad():
            logits = model(batch).head_logits[0].double().numpy()
        own = logits[:2] if column < 2 else logits[2:]
        losses.append(np.log(np.exp(own).sum()) - logits[column])
    assert got == pytest.approx(np.mean(losses), abs=1e-5)
    with pytest.raises(BagError, match="no validation case of the stage has instances"):
        validation_loss(model, [])


class Counter(torch.nn.Module):
    """A model that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("number", torch.zeros(()))

    number: torch.Tensor


def test_patience_and_the_best_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses = [0.9, 0.5, 0.6, 0.5, 0.7]
    monkeypatch.setattr("comel.training.early_stopping.validation_loss", lambda model, bags: losses[int(model.number)])
    model: Any = Counter()
    stopping = EarlyStopping(3, some_bags)
    for epoch in range(5):
        assert not stopping.is_over
        model.number.fill_(epoch)
        assert stopping.observe(model, epoch) == losses[epoch]
    assert stopping.is_over
    assert (stopping.best_epoch, stopping.best_loss) == (1, 0.5)  # as low again is not lower
    stopping.save(tmp_path / "state.safetensors")
    again = EarlyStopping(3, some_bags)
    again.load(tmp_path / "state.safetensors")
    assert (again.best_epoch, again.best_loss, again.epoch, again.is_over) == (1, 0.5, 4, True)
    for one in (stopping, again):
        model.number.fill_(9)
        one.restore(model)
        assert model.number == 1


def test_a_loss_that_is_never_a_number_ends_the_stage_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comel.training.early_stopping.validation_loss", lambda model, bags: float("nan"))
    model: Any = Counter()
    stopping = EarlyStopping(2, some_bags)
    for epoch in range(3):
        assert not stopping.is_over
        stopping.observe(model, epoch)
    assert stopping.is_over
    model.number.fill_(7)
    stopping.restore(model)
    assert model.number == 7


def test_a_damaged_state_is_said_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    EarlyStopping(3, some_bags).save(whole)
    save_file({"number": torch.zeros(())}, tmp_path / "bare.safetensors")
    save_file({}, tmp_path / "text.safetensors", metadata={"best_loss": "low", "best_epoch": "1", "epoch": "2"})
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:20])
    for name in ("missing", "bare", "text", "cut"):
        stopping = EarlyStopping(3, some_bags)
        with pytest.raises(RunError, match=rf"{name}\.safetensors: cannot be read .*; restore the run from a copy"):
            stopping.load(tmp_path / f"{name}.safetensors")
        assert (stopping.best_epoch, stopping.epoch) == (-1, -1)


@STRATEGIES
def test_a_stage_ends_early_with_the_weights_of_its_best_epoch(
    stream: Stream, tmp_path: Path, strategy: dict[str, Any]
) -> None:
    plain = {**MODEL, "bag_evidence": False, "context": "none"}  # settled once a stage is trained, which moves the logits
    run = comel.train({**stream.settings(strategy, **SHORT), "model": plain}, tmp_path / "run", quiet=True)
    for told in epochs(run).values():
        losses = [event["validation_ce"] for event in told]
        assert len(losses) == min(12, int(np.argmin(losses)) + 3)
    assert min(len(told) for told in epochs(run).values()) < 12
    assert not list(run.glob("early-stopping*"))
    directory = RunDirectory(run)
    for version, task, told in zip((1, 2), ("colon", "kidney"), epochs(run).values(), strict=True):
        published = build_model(directory.info(version).model)
        load_state(directory.version_folder(version), published)
        bags = [
            (make_batch(read_bag(stream.bag(slide)), torch.device("cpu")), 2 * (version - 1) + int(slide[-1]) % 2)
            for slide in stream.slides(task=task, split="val")
        ]
        assert validation_loss(published, bags) == pytest.approx(min(e["validation_ce"] for e in told), abs=1e-4)


@pytest.mark.parametrize("strategy", [pytest.param(OWLORA, marks=pytest.mark.slow), FINETUNE], ids=["owlora", "finetune"])
def test_killed_and_started_again_it_ends_the_same(stream: Stream, tmp_path: Path, strategy: dict[str, Any]) -> None:
    settings = stream.settings(strategy, **SHORT)
    whole = comel.train(settings, tmp_path / "whole", quiet=True)
    renames = killed(lambda: comel.train(settings, tmp_path / "counted", quiet=True))
    for at in np.linspace(8, renames - 4, 3).astype(int).tolist():
        run = tmp_path / f"killed-{at}"
        assert killed(lambda run=run: comel.train(settings, run, quiet=True), at=at) == 1  # type: ignore[misc]
        comel.train(settings, run, quiet=True)
        assert weights(run) == weights(whole)
        assert {stage: len(told) for stage, told in epochs(run).items()} == {
            stage: len(told) for stage, told in epochs(whole).items()
        }
        assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_run_that_version_0_1_0_left_goes_on(stream: Stream, tmp_path: Path) -> None:
    """It kept the state of early stopping beside the checkpoint, and a file too many if it was killed in between."""
    settings = stream.settings(FINETUNE, **SHORT)
    whole = comel.train(settings, tmp_path / "whole", quiet=True)
    run = tmp_path / "run"
    renames = killed(lambda: comel.train(settings, tmp_path / "counted", quiet=True))
    assert killed(lambda: comel.train(settings, run, quiet=True), at=renames // 2) == 1
    progress = json.loads((run / "checkpoint" / "progress.json").read_text())
    stage, epoch = progress["stage"], progress["epoch"]
    beside = run / f"early-stopping-{stage:03d}-{epoch:05d}.safetensors"
    (run / "checkpoint" / "early-stopping.safetensors").rename(beside)
    (run / f"early-stopping-{stage:03d}-{epoch + 1:05d}.safetensors").write_bytes(b"of a checkpoint that never came")
    content = beside.read_bytes()
    beside.unlink()
    with pytest.raises(RunError, match=rf"{beside.name}: cannot be read"):
        comel.train(settings, run, quiet=True)
    beside.write_bytes(content)
    comel.train(settings, run, quiet=True)
    assert weights(run) == weights(whole)
    assert epochs(run)[stage][:epoch] != []
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


def test_test_cases_decide_nothing(stream: Stream, tmp_path: Path) -> None:
    """Turning the labels of all test cases round changes no weight, threshold or temperature."""
    rows = [dict(row) for row in stream.rows]
    for row in rows:
        if row["split"] == "test":
            row["label"] = "normal" if row["label"] == "tumour" else "tumour"
    turned = Stream(write_manifest(tmp_path / "turned.csv", rows), stream.bags, rows)
    runs = [comel.train(each.settings(**SHORT), tmp_path / name, quiet=True) for each, name in ((stream, "a"), (turned, "b"))]
    assert weights(runs[0]) == weights(runs[1])
    chosen = [[(t.threshold, t.temperature) for t in RunDirectory(run).info().tasks] for run in runs]
    assert chosen[0] == chosen[1]
    scores = [scores_of(run)["matrices"]["bag"] for run in runs]
    assert scores[0] != scores[1]


def test_a_validation_case_without_tissue_is_passed_over(stream: Stream, tmp_path: Path) -> None:
    bags = Path(shutil.copytree(stream.bags, tmp_path / "bags"))
    changed = Stream(stream.manifest, bags, stream.rows)
    first, *others = stream.slides(task="colon", split="val")
    nothing = np.empty((0, DIMENSION))
    write_bag(bags / f"{first}.h5", make_bag(first, nothing, np.empty(0, np.int8)))
    run = comel.train(changed.settings(FINETUNE, tasks=["colon"], **SHORT), tmp_path / "run", quiet=True)
    assert all(np.isfinite(event["validation_ce"]) for event in epochs(run)[0])
    for slide in others:
        write_bag(bags / f"{slide}.h5", make_bag(slide, nothing, np.empty(0, np.int8)))
    with pytest.raises(BagError, match="no validation case of the stage has instances"):
        comel.train(changed.settings(FINETUNE, tasks=["colon"], **SHORT), tmp_path / "none", quiet=True)


def test_a_task_without_validation_cases_is_refused(stream: Stream, tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if row["task"] == "kidney" else row["split"]} for row in stream.rows]
    changed = Stream(write_manifest(tmp_path / "m.csv", rows), stream.bags, rows)
    with pytest.raises(ConfigError, match=r"early_stopping: task 'kidney' has no validation case; mark some"):
        comel.train(changed.settings(**SHORT), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "config.yaml").exists()
