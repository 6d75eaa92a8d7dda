"""A run directory that somebody sends, changed in any way that its files allow: every command that opens it refuses it in one
line, whatever its checksums say, without the network and without the memory that its numbers ask for; or takes it where what
was changed is no business of that command. What names in it could run is tested in ``test_trusted_code.py``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from comel.errors import ComelError
from service.predictions.work import Work, Workbench
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings
from tests.comel.app.test_trusted_code import change_json, sign
from tests.comel.toys import Stream, write_stream

Cli = Callable[..., tuple[int, str, str]]
Mutation = Callable[[Path], object]
MEMORY = 3 << 30
"""Address space that a command may ask for beyond what this process has: threads and libraries reserve some of it."""


def version(run: Path) -> Path:
    return run / "versions" / "002"


def model(change: Callable[[dict[str, Any]], Any], *, signed: bool = True) -> Mutation:
    """Change ``model.json`` of the newest version."""

    def apply(run: Path) -> None:
        change_json(version(run) / "model.json", change)
        if signed:
            sign(run)

    return apply


def option(**values: Any) -> Mutation:
    return model(lambda content: content["model"]["options"].update(values))


def task(**values: Any) -> Mutation:
    return model(lambda content: content["tasks"][1].update(values))


def contract(**values: Any) -> Mutation:
    return model(lambda content: content["contract"].update(values))


def text(name: str, change: Callable[[str], str]) -> Mutation:
    """Change a text file; one of the version is signed again."""

    def apply(run: Path) -> None:
        path = run / name
        path.write_text(change(path.read_text()))
        sign(run)

    return apply


def tensors(change: Callable[[dict[str, torch.Tensor]], Any], name: str = "model.safetensors") -> Mutation:
    """Change the tensors of a file."""

    def apply(run: Path) -> None:
        path = next(version(run).rglob(name))
        content = load_file(path)
        save_file(change(content) or content, path)
        sign(run)

    return apply


def header(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    """Change what the weights' file says of its tensors, and not the tensors."""

    def apply(run: Path) -> None:
        path = version(run) / "model.safetensors"
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        about = json.loads(content[8 : 8 + length])
        about = change(about) or about
        said = json.dumps(about).encode()
        path.write_bytes(struct.pack("<Q", len(said)) + said + content[8 + length :])
        sign(run)

    return apply


def weights(change: Callable[[bytes], bytes], name: str = "model.safetensors") -> Mutation:
    """Change the bytes of a file."""

    def apply(run: Path) -> None:
        path = next(version(run).rglob(name))
        path.write_bytes(change(path.read_bytes()))
        sign(run)

    return apply


def checksums(change: Callable[[dict[str, str]], Any]) -> Mutation:
    def apply(run: Path) -> None:
        path = version(run) / "checksums.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) if callable(change) else change))

    return apply


def instead(name: str, make: Callable[[Path], Any], *, signed: bool = False) -> Mutation:
    """Put something else in the place of a file or a folder."""

    def apply(run: Path) -> None:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)
        if signed:
            sign(run)

    return apply


def removed(name: str) -> Mutation:
    """Take a file of the version away."""

    def apply(run: Path) -> None:
        next(version(run).rglob(name)).unlink()
        sign(run)

    return apply


def linked(run: Path) -> None:
    """Put a link in the place of the weights."""
    shutil.move(run / WEIGHTS, run.parent / "elsewhere")
    (run / WEIGHTS).symlink_to(run.parent / "elsewhere")


def yaml_text(change: Callable[[str], str]) -> Mutation:
    return text("config.yaml", change)


def set_all(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda content: {
        name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor for name, tensor in content.items()
    }


def first(content: dict[str, Any]) -> str:
    return next(name for name in content if name != "__metadata__")


DEEP = "[" * 100_000 + "]" * 100_000
MODEL = "versions/002/model.json"
WEIGHTS = "versions/002/model.safetensors"
MUTATIONS: dict[str, Mutation] = {
    # Settings of the model.
    "width of 1e9": option(dim=10**9),
    "width of 1e18": option(dim=10**18),
    "width of 0": option(dim=0),
    "width below 0": option(dim=-32),
    "width that is a text": option(dim="wide"),
    "width that is a fraction": option(dim=32.5),
    "a thousand million blocks": option(blocks=10**9),
    "more heads than width": option(num_heads=10**6),
    "heads that do not divide the width": option(num_heads=5),
    "a region of 1e12 tiles": option(region_size=10**12),
    "an option that there is not": option(wings=2),
    "options that are a list": model(lambda content: content["model"].update(options=[1])),
    "options that are missing": model(lambda content: content["model"].pop("options")),
    "a dimension of 1e9": model(lambda content: [content[part].update(dimension=10**9) for part in ("model", "contract")]),
    "a dimension of 0": model(lambda content: content["model"].update(dimension=0)),
    "another dimension than the contract's": model(lambda content: content["model"].update(dimension=16)),
    "a model that there is not": model(lambda content: content["model"].update(name="nothing")),
    "another model than the weights are of": model(lambda content: content["model"].update(name="mean", options={})),
    "a model in a module": model(lambda content: content["model"].update(name="os:system")),
    "a model that is a number": model(lambda content: content["model"].update(name=7)),
    "a model's name of a megabyte": model(lambda content: content["model"].update(name="x" * 2**20)),
    "a hash that is none": model(lambda content: content["model"].update(code_sha256="nope")),
    # Heads and tasks.
    "no head": model(lambda content: content["model"].update(heads=[])),
    "twenty thousand heads": model(lambda content: content["model"].update(heads=content["model"]["heads"] * 10_000)),
    "a head of a million labels": model(
        lambda content: content["model"]["heads"][0].update(labels=[f"l{i}" for i in range(10**6)])
    ),
    "a head of one label": model(lambda content: content["model"]["heads"][0].update(labels=["normal"])),
    "a label twice": model(lambda content: content["model"]["heads"][0].update(labels=["normal", "normal"])),
    "a label that is a list": model(lambda content: content["model"]["heads"][0].update(labels=["normal", ["tumour"]])),
    "a negative label that there is not": model(lambda content: content["model"]["heads"][0].update(negative="other")),
    "two heads of one name": model(lambda content: content["model"]["heads"][1].update(name="colon")),
    "a head less than the weights": model(lambda content: content["model"]["heads"].pop()),
    "a head that is not there": task(head=7),
    "a head below 0": task(head=-1),
    "a stage that is not there": task(stage=9),
    "a task twice": task(name="colon"),
    "a task whose name ends a line": task(name="kidney\ncomel: all is well"),
    "a task whose name moves the cursor": task(name="kidney\x1b[2J"),
    "slides in a split that there is not": task(slides={"holdout": ["a"]}),
    "slides that are numbers": task(slides={"train": [1, 2]}),
    "patients that are a text": task(patients="p1"),
    "no task": model(lambda content: content.update(tasks=[])),
    "tasks that are an object": model(lambda content: content.update(tasks={})),
    "a temperature of 0": task(temperature=0),
    "a temperature below 0": task(temperature=-1.0),
    "a temperature that is no number": text(MODEL, lambda said: re.sub(r'"temperature": [^,]+', '"temperature": NaN', said)),
    "a threshold of infinity": text(MODEL, lambda said: re.sub(r'"threshold": [^,]+', '"threshold": Infinity', said)),
    "a number beyond all numbers": text(MODEL, lambda said: said.replace('"stages": 2', '"stages": 1e999', 1)),
    "stages of 1e30": model(lambda content: content.update(stages=10**30)),
    "stages below 0": model(lambda content: content.update(stages=-1)),
    # The description as a whole.
    "a newer format": model(lambda content: content.update(format=99, comel_version="9.9.9")),
    "a format that is a text": model(lambda content: content.update(format="2")),
    "a format below 0": model(lambda content: content.update(format=-1)),
    "another version's number": model(lambda content: content.update(version=1)),
    "an unknown mode": model(lambda content: content.update(mode="task-free")),
    "a key that there is not": model(lambda content: content.update(more=1)),
    "a key that is missing": model(lambda content: content.pop("contract")),
    "a strategy without a name": model(lambda content: content.update(strategy={})),
    "a description that is a list": text(MODEL, lambda said: "[]"),
    "a description that is null": text(MODEL, lambda said: "null"),
    "a description that is empty": text(MODEL, lambda said: ""),
    "half a description": text(MODEL, lambda said: said[: len(said) // 2]),
    "a description that nests": text(MODEL, lambda said: f'{{"format": 2, "model": {DEEP}}}'),
    "a key twice": text(MODEL, lambda said: said.replace('"stages": 2', '"stages": 2, "stages": 2', 1)),
    "a description that is no text": instead(MODEL, lambda path: path.write_bytes(b"\xff\xfe\x00" * 100), signed=True),
    "a description with half a surrogate": text(MODEL, lambda said: said.replace('"run": "', '"run": "\\ud800', 1)),
    "a number of five thousand digits": text(MODEL, lambda said: said.replace('"stages": 2', f'"stages": {"9" * 5000}', 1)),
    # What features must be like.
    "tiles of 1e12 pixels": contract(tile_size=10**12),
    "tiles of 0 um/px": contract(mpp=0.0),
    "tiles below 0 um/px": contract(mpp=-0.5),
    "a reading that is a list": contract(reading=[]),
    "a thousand joined scales": contract(joined_mpp=[float(i) for i in range(1, 1001)]),
    "an encoder that is a number": contract(encoder=3),
    "an encoder of control characters": contract(encoder="toy\x00"),
    "a contract that is a text": model(lambda content: content.update(contract="uni")),
    # Weights.
    "weights that are NaN": tensors(set_all(float("nan"))),
    "weights of infinity": tensors(set_all(float("inf"))),
    "one weight that is NaN": tensors(lambda content: content["trunk.embed.weight"].view(-1)[:1].fill_(float("nan")) is None),
    "weights of 1e38": tensors(set_all(1e38)),
    "temperatures of 0": tensors(lambda content: content["temperature"].zero_() is None),
    "temperatures below 0": tensors(lambda content: content["temperature"].fill_(-1) is None),
    "moments that none have": tensors(lambda content: content["recognition.second"].add_(1e6 - 1e6 * torch.eye(32)) is None),
    "sums of 1e300": tensors(lambda content: content["recognition.sums"].fill_(1e300) is None),
    "counts of 1e-300": tensors(lambda content: content["recognition.counts"].fill_(1e-300) is None),
    "a tensor that is missing": tensors(lambda content: content.pop(first(content)) is None),
    "a tensor too many": tensors(lambda content: content.update(more=torch.zeros(2))),
    "a tensor of another shape": tensors(lambda content: content.update({first(content): torch.zeros(3, 5, 7)})),
    "a tensor without a number": tensors(lambda content: content.update({first(content): torch.zeros(0)})),
    "no tensor": tensors(lambda content: content.clear()),
    "weights that are whole numbers": tensors(lambda content: {name: value.to(torch.int64) for name, value in content.items()}),
    "weights that are truths": tensors(lambda content: {name: value.to(torch.bool) for name, value in content.items()}),
    "weights that are complex": header(lambda about: about[first(about)].update(dtype="C64")),
    "a shape of 1e15 numbers": header(lambda about: about[first(about)].update(shape=[10**15])),
    "a shape below 0": header(lambda about: about[first(about)].update(shape=[-4])),
    "offsets beyond the file": header(lambda about: about[first(about)].update(data_offsets=[0, 2**50])),
    "offsets that go back": header(lambda about: about[first(about)].update(data_offsets=[8, 0])),
    "two tensors in one place": header(
        lambda about: {name: value | {"data_offsets": [0, 4]} for name, value in about.items() if name != "__metadata__"}
    ),
    "a type that there is not": header(lambda about: about[first(about)].update(dtype="F7")),
    "a header that is a list": header(lambda about: [1]),
    "a header of 2^60 bytes": weights(lambda content: struct.pack("<Q", 2**60) + content[8:]),
    "a header that is longer than the file": weights(lambda content: struct.pack("<Q", len(content)) + content[8:]),
    "half the weights": weights(lambda content: content[: len(content) // 2]),
    "weights and more": weights(lambda content: content + b"\x00" * 1000),
    "weights of 7 bytes": weights(lambda content: content[:7]),
    "weights that are empty": weights(lambda content: b""),
    "weights that are a TIFF": weights(lambda content: b"II*\x00" + content[4:]),
    # Checksums.
    "no checksums": lambda run: (version(run) / "checksums.json").unlink(),
    "checksums that are empty": checksums(lambda content: {}),
    "checksums that are a list": checksums(lambda content: [*content]),
    "checksums of some files": checksums(lambda content: {"model.json": content["model.json"]}),
    "checksums of a file that is not there": checksums(lambda content: content | {"adapters/x": "0" * 64}),
    "checksums of a file elsewhere": checksums(lambda content: content | {"../../config.yaml": "0" * 64}),
    "a checksum that is a number": checksums(lambda content: content | {"model.json": 1}),
    "a checksum that differs": checksums(lambda content: content | {"model.safetensors": "0" * 64}),
    "a file too many": lambda run: (version(run) / "more.bin").write_bytes(b"more"),
    # What is no file.
    "weights that are a link": linked,
    "a description that is a link to a device": instead(MODEL, lambda path: path.symlink_to("/dev/zero")),
    "a description that is a pipe": instead(MODEL, os.mkfifo),
    "weights that are a pipe": instead(WEIGHTS, os.mkfifo),
    "a description that is a folder": instead(MODEL, Path.mkdir),
    "checksums that are a pipe": instead("versions/002/checksums.json", os.mkfifo),
    "the current version is a pipe": instead("current", os.mkfifo),
    "the current version is a device": instead("current", lambda path: path.symlink_to("/dev/zero")),
    "the current version is a text": instead("current", lambda path: path.write_text("two")),
    "the current version is below 0": instead("current", lambda path: path.write_text("-1")),
    "the current version has 5000 digits": instead("current", lambda path: path.write_text("9" * 5000)),
    "the current version is not there": instead("current", lambda path: path.write_text("3")),
    "a version that links elsewhere": instead("versions/002", lambda path: path.symlink_to("001")),
    "versions that are a file": instead("versions", lambda path: path.write_text("")),
    "folders without end": lambda run: (version(run) / "/".join("a" * 40)).mkdir(parents=True),
    # The files beside the versions.
    "settings that are a pipe": instead("config.yaml", os.mkfifo),
    "settings that are empty": yaml_text(lambda said: ""),
    "settings that are no YAML": yaml_text(lambda said: said + "\n\t- [}"),
    "settings that are a list": yaml_text(lambda said: "- 1\n- 2\n"),
    "settings that repeat themselves": yaml_text(
        lambda said: "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    ),
    "settings that nest": yaml_text(lambda said: "data: " + "[" * 3000 + "]" * 3000),
    "an unknown strategy": yaml_text(lambda said: said.replace("name: owlora", "name: nothing")),
    "a strategy's name of a megabyte": yaml_text(lambda said: said.replace("name: owlora", "name: " + "x" * 2**20)),
    "code of a megabyte's name": yaml_text(lambda said: said.replace("name: owlora", f"name: {'x' * 2**20}.py:A")),
    "settings of a terabyte": lambda run: os.truncate(run / "config.yaml", 2**40),
    "a description of a terabyte": lambda run: os.truncate(run / MODEL, 2**40),
    "checksums of a terabyte": lambda run: os.truncate(version(run) / "checksums.json", 2**40),
    "scores of a terabyte": lambda run: os.truncate(run / "metrics.json", 2**40),
    "events of a terabyte": lambda run: os.truncate(run / "events.jsonl", 2**40),
    "cases of a terabyte": lambda run: os.truncate(run / "evaluations/002.csv", 2**40),
    "weights of a terabyte": lambda run: os.truncate(run / WEIGHTS, 2**40),
    "a setting that there is not": yaml_text(lambda said: said.replace("trainer:", "trainer:\n  wings: 2")),
    "a learning rate of infinity": yaml_text(lambda said: said.replace("lr: 0.003", "lr: .inf")),
    "a million million epochs": yaml_text(lambda said: said.replace("epochs: 8", "epochs: 1000000000000")),
    "a million threads": yaml_text(lambda said: said.replace("threads: 1", "threads: 1000000")),
    "scores that are a pipe": instead("metrics.json", os.mkfifo),
    "scores that are a list": text("metrics.json", lambda said: "[]"),
    "scores that nest": text("metrics.json", lambda said: DEEP),
    "scores of a newer format": text("metrics.json", lambda said: json.dumps(json.loads(said) | {"format": 99})),
    "scores that are half there": text("metrics.json", lambda said: said[: len(said) // 2]),
    "events that are a pipe": instead("events.jsonl", os.mkfifo),
    "events that are nonsense": text("events.jsonl", lambda said: '{"event": 7}\n{"event": "epoch"}\nnull\n' + DEEP),
    "cases that are a pipe": instead("evaluations/002.csv", os.mkfifo),
    "cases that are nonsense": text("evaluations/002.csv", lambda said: "a,b\n1,2\n"),
    "an add-task that is nonsense": lambda run: (run / "add-task.json").write_text("[]"),
    "an add-task that is a pipe": lambda run: os.mkfifo(run / "add-task.json"),
    # What strategies keep.
    "an adapter that is missing": removed("adapter_model.safetensors"),
    "an adapter of another shape": tensors(
        lambda content: content.update({first(content): torch.zeros(3, 5, 7)}), "adapter_model.safetensors"
    ),
    "an adapter that is NaN": tensors(set_all(float("nan")), "adapter_model.safetensors"),
    "a strategy's state that is a list": text("versions/002/strategy.json", lambda said: "[]"),
    "a strategy's state that nests": text("versions/002/strategy.json", lambda said: DEEP),
    "base weights that are missing": removed("base.safetensors"),
}  # fmt: skip
"""Each changes a run of two versions in one way."""

HARMLESS = {"events that are nonsense"}
"""Not for any command: a line that cannot be read is passed over, as after a kill."""


@pytest.fixture(scope="module")
def liver(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """A task that the run has not learned."""
    return write_stream(tmp_path_factory.mktemp("liver"), ["liver"], slides=8)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little memory, and no network."""

    def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refused(said: str, name: str) -> None:
    """One line that says what is wrong, and not that memory was asked for."""
    lines = [line for line in said.splitlines() if line.startswith("comel: ")]
    assert len(lines) == 1, (name, said)
    assert said.splitlines()[-1] == lines[0], (name, said)
    assert len(lines[0]) < 2000, name
    assert lines[0].isprintable(), name
    assert "llocate" not in lines[0], (name, said)
    assert "memory" not in lines[0].lower(), (name, said)


def test_there_are_many() -> None:
    assert len(MUTATIONS) > 100


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_hostile_run_is_refused_in_one_line(
    name: str, toy_run: Path, toy_stream: Stream, liver: Stream, narrow: None, comel_cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    MUTATIONS[name](run)
    bag, data = toy_stream.bag("colon-06"), ("--manifest", toy_stream.manifest, "--bags", toy_stream.bags)
    new = ("--manifest", liver.manifest, "--bags", liver.bags, "--set", "trainer.epochs=1", "--quiet")
    commands: dict[str, tuple[object, ...]] = {
        "predict": ("predict", run, bag, "--out", tmp_path / "out", "--device", "cpu", "--quiet"),
        "evaluate": ("evaluate", run, *data, "--task", "colon", "--device", "cpu", "--json"),
        "report": ("report", run, "--out", tmp_path / "report.html"),
        "add-task": ("add-task", run, *new),
        "resume": ("train", "--resume", "--out", run, "--quiet"),
    }
    codes = {}
    for command, words in commands.items():
        code, _, said = comel_cli(*words)
        assert "Traceback" not in said, (command, said)
        assert code in (0, 2), (command, said)
        if code == 2:
            refused(said, f"{command}: {name}")
        codes[command] = code
    settings = ServiceSettings(runs={"model": run}, state_dir=tmp_path / "state", device="cpu")
    try:
        Workbench(settings, ModelRegistry(settings).get).perform(Work("0" * 32, "bag", bag, "colon-06", "model", None))
    except ComelError as error:
        refused(f"comel: {error.what}", f"serve: {name}")
        codes["serve"] = 2
    if name not in HARMLESS:
        assert 2 in {code for command, code in codes.items() if command != "resume"}, codes


def test_the_run_that_they_are_made_of_is_taken(
    toy_run: Path, toy_stream: Stream, liver: Stream, narrow: None, comel_cli: Cli, tmp_path: Path
) -> None:
    """Or else the refusals say nothing, and the memory is too little for anything."""
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    sign(run)
    bag, data = toy_stream.bag("colon-06"), ("--manifest", toy_stream.manifest, "--bags", toy_stream.bags)
    for words in (
        ("predict", run, bag, "--out", tmp_path / "out", "--device", "cpu"),
        ("evaluate", run, *data, "--task", "colon", "--device", "cpu"),
        ("report", run, "--out", tmp_path / "report.html"),
        ("add-task", run, "--manifest", liver.manifest, "--bags", liver.bags, "--set", "trainer.epochs=1"),
    ):
        code, _, said = comel_cli(*words)
        assert code == 0, said
    assert hashlib.sha256((run / "versions/002/model.json").read_bytes()).hexdigest()
