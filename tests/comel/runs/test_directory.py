"""The run directory: immutable versions, checksums, one current version, one writer."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from comel.bags.bag import read_bag
from comel.errors import RunError
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from comel.runs.weights import build_model, load_state
from tests.comel.toys import CONTRACT, DIMENSION, Stream
from tests.places import ROOT

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(toy_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be damaged."""
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


def test_what_a_run_leaves(toy_run: Path, toy_stream: Stream) -> None:
    assert {path.name for path in toy_run.iterdir() if path.name != ".lock"} == {
        "config.yaml", "metrics.json", "events.jsonl", "versions", "current", "evaluations",
    }  # fmt: skip
    directory = RunDirectory(toy_run)
    assert directory.versions() == [1, 2]
    info = directory.info()
    assert (info.version, info.stages, info.mode) == (2, 2, "class-incremental")
    assert info.feature_contract == CONTRACT
    assert [task.name for task in info.tasks] == ["colon", "kidney"]
    assert info.tasks[1].slides["test"] == toy_stream.slides(task="kidney", split="test")
    assert info.tasks[0].threshold_chosen_on == "validation"
    assert not list(toy_run.rglob("*.pkl")) + list(toy_run.rglob("*.pt")) + list(toy_run.rglob("*.bin"))
    assert not list(toy_run.rglob(".partial*"))


def test_events_tell_the_story(toy_run: Path) -> None:
    events = [json.loads(line) for line in (toy_run / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", *["epoch"] * 8, "version", *["epoch"] * 8, "version", "finished"]
    losses = [event["losses"]["ce"] for event in events if event["event"] == "epoch" and event["stage"] == 0]
    assert losses[-1] < losses[0] / 2


def test_checksums_cover_every_file(toy_run: Path) -> None:
    for version in (1, 2):
        folder = toy_run / "versions" / f"{version:03d}"
        stated = json.loads((folder / "checksums.json").read_text())
        found = {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "checksums.json"
        }
        assert stated == found


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_in_any_file_is_found(run: Path, comel_cli: Cli, toy_stream: Stream, tmp_path: Path) -> None:
    folder = run / "versions" / "002"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 7
    for path in files:
        whole = path.read_bytes()
        flip(path, len(whole) // 2)
        with pytest.raises(RunError, match="restore"):
            Predictor.open(run)
        path.write_bytes(whole)
    Predictor.open(run)
    flip(folder / "model.safetensors", -3)
    for command in (
        ("predict", run, toy_stream.bag("colon-06"), "--out", tmp_path / "out"),
        ("evaluate", run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags),
        ("add-task", run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags, "--task", "liver"),
    ):
        code, _, said = comel_cli(*command)
        assert code == 2
        assert said.startswith("comel: ")
        assert "changed since it was written" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert RunDirectory(run).versions() == [1, 2]
    Predictor.open(run, version=1)


def test_every_single_byte_of_the_description_counts(run: Path) -> None:
    """No flip in model.json passes, among them those that leave JSON of the right form, such as another version number."""
    path = run / "versions" / "002" / "model.json"
    whole = path.read_bytes()
    for position in range(3, len(whole), 41):
        flip(path, position)
        with pytest.raises(RunError):
            Predictor.open(run)
        path.write_bytes(whole)
    path.write_bytes(whole.replace(b'"version": 2', b'"version": 1'))
    with pytest.raises(RunError, match="states version 1"):
        Predictor.open(run)


def test_a_missing_file_is_found(run: Path) -> None:
    next((run / "versions" / "002" / "adapters").rglob("*.safetensors")).unlink()
    with pytest.raises(RunError, match="missing or changed"):
        Predictor.open(run)
    (run / "versions" / "001" / "checksums.json").unlink()
    with pytest.raises(RunError, match=r"no readable checksums\.json"):
        Predictor.open(run, version=1)


def test_runs_and_versions_that_are_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        Predictor.open(tmp_path / "nowhere")
    for version in (0, 3, -1):
        with pytest.raises(RunError, match=f"no version {version}; it has 1, 2"):
            Predictor.open(run, version=version)
    (run / "current").unlink()
    with pytest.raises(RunError, match="holds no finished version; finish the training"):
        Predictor.open(run)


def test_a_version_does_not_change_with_what_is_learned_after_it(toy_run: Path, toy_stream: Stream) -> None:
    """Version 1 has one head, version 2 two; both predict the first task's slides, each with what it knew then."""
    first, second = Predictor.open(toy_run, version=1), Predictor.open(toy_run, version=2)
    assert first.class_names == ["colon/normal", "colon/tumour"]
    assert second.class_names == ["colon/normal", "colon/tumour", "kidney/normal", "kidney/tumour"]
    bag = read_bag(toy_stream.bag("colon-07"))
    old, new = first.predict(bag), second.predict(bag)
    assert (old.model["version"], new.model["version"]) == (1, 2)
    assert old.predicted_class == new.predicted_class == "colon/tumour"
    assert old.probabilities is not None
    assert old.probabilities.sum() == pytest.approx(1)


def test_merged_weights_do_what_base_and_adapters_do(toy_run: Path, toy_stream: Stream) -> None:
    """Version 2's model.safetensors is its base weights with PEFT's own reading of its adapters added."""
    from peft import PeftModel

    import comel.owlora  # noqa: F401, the import registers the tuner

    folder = toy_run / "versions" / "002"
    info = RunDirectory(toy_run).info()
    merged, bare = build_model(info.model).eval(), build_model(info.model).eval()
    load_state(folder, merged)
    load_state(folder, bare)
    bare.trunk.load_state_dict(load_file(folder / "base.safetensors"))
    features = torch.from_numpy(read_bag(toy_stream.bag("kidney-07")).features).unsqueeze(0)
    with torch.no_grad():
        expected = merged.trunk(features)[1]
        unadapted = bare.trunk(features)[1]
        adapters = sorted(path.name for path in (folder / "adapters").iterdir())
        assert len(adapters) == 1
        peft = PeftModel.from_pretrained(bare.trunk, str(folder / "adapters" / adapters[0]), adapter_name=adapters[0])
        adapted = peft(features)[1]
    torch.testing.assert_close(adapted, expected, rtol=1e-4, atol=1e-5)
    assert (unadapted - expected).abs().max() > 1e-3


@pytest.mark.slow
def test_peft_alone_opens_an_adapter(toy_run: Path) -> None:
    """In a process of its own, with nothing of ours but the tuner's registration and a plain trunk."""
    code = f"""
import sys
import comel.owlora
from peft import PeftModel
from safetensors.torch import load_file
from comel.models.comel import CoMELOptions, Trunk
folder = sys.argv[1]
trunk = Trunk({DIMENSION}, CoMELOptions(dim=32, attention_hidden=16, blocks=1, num_heads=4, region_size=4))
trunk.load_state_dict(load_file(folder + "/base.safetensors"))
model = PeftModel.from_pretrained(trunk, sys.argv[2])
config = next(iter(model.peft_config.values()))
print(config.peft_type.value, config.r, sorted({{n.split(".")[-2] for n, _ in model.named_parameters() if "owlora_" in n}}))
"""
    folder = toy_run / "versions" / "002"
    adapter = next((folder / "adapters").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(adapter)],
        capture_output=True, text=True, timeout=600, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OWLORA 4 ")


def test_one_writer_at_a_time(run: Path, toy_stream: Stream, comel_cli: Cli) -> None:
    import os

    with RunDirectory(run).locked():
        child = os.fork()
        if not child:
            code, _, said = comel_cli(
                "add-task", run, "--manifest", toy_stream.manifest, "--bags", toy_stream.bags, "--task", "liver"
            )
            os._exit(0 if code == 2 and "another process is writing to it" in said else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with RunDirectory(run).locked():
        pass


def test_thresholds_come_from_validation_cases(toy_run: Path, toy_stream: Stream) -> None:
    """The classifier's logits lie so that 0.5 separates the validation cases best; test cases have no part in it."""
    from comel.models.batch import make_batch
    from comel.scoring.metrics import choose_threshold

    info = RunDirectory(toy_run).info(1)
    model = build_model(info.model).eval()
    load_state(RunDirectory(toy_run).version_folder(1), model)
    bags = [read_bag(toy_stream.bag(slide)) for slide in toy_stream.slides(task="colon", split="val")]
    with torch.inference_mode():
        chances = [
            model.evidence(model.with_task(model(make_batch(bag, torch.device("cpu"))), 0), 0)[0].numpy() for bag in bags
        ]
    labels = np.concatenate([bag.labels for bag in bags if bag.labels is not None])
    assert (info.tasks[0].threshold, info.tasks[0].threshold_chosen_on) == (0.5, "validation")
    assert choose_threshold(np.concatenate(chances), labels) == pytest.approx(0.5, abs=1e-4)


def test_what_file_managers_leave_in_a_version_is_none_of_its_files(toy_run: Path, tmp_path: Path) -> None:
    """To open a folder in Finder or Explorer must not end a service; any other file that is there is refused."""
    shutil.copytree(toy_run, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    for name in (".DS_Store", "._model.json", "Thumbs.db", "desktop.ini"):
        (run.version_folder() / name).write_bytes(b"looked at")
    run.verify()
    (run.version_folder() / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"adapter\.safetensors: not one of the version's files"):
        run.verify()
