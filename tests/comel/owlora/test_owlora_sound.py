"""OWLoRA does what it says, on runs of three tasks trained by the trainer with Adam and weight decay.

What is protected is computed here anew: for ``weights`` by numpy from the base weights, for ``features`` from the basis that
the version before a task holds. Adapters are read from their files, as plain tensors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import comel
from comel.bags.bag import read_bag
from comel.errors import CapacityError
from comel.models.base import BagOutput
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory
from comel.runs.weights import build_model, load_state
from comel.strategies.owlora import OWLora, OWLoraOptions
from tests.comel.toys import DIMENSION, MODEL, OWLORA, Stream, tree

RANK, DECLARED, ENERGY = 4, 4, 0.99
TRAINING: dict[str, Any] = {"epochs": 4, "lr": 3e-3, "weight_decay": 1e-2}
TOLERANCE = 1e-5
Adapter = dict[str, dict[str, np.ndarray]]
BASES = pytest.mark.parametrize("basis", ["features", "weights"])


@dataclass(frozen=True)
class Learned:
    """A run of three tasks, and what its second version said and held before the third was learned."""

    run: Path
    before: dict[str, tuple[bytes, ...]]
    files: dict[str, bytes]

    def folder(self, version: int) -> Path:
        return self.run / "versions" / f"{version:03d}"

    def adapters(self, version: int = 3) -> list[Adapter]:
        """A, B and s of every layer, oldest adapter first, float64."""
        found = []
        for folder in sorted((self.folder(version) / "adapters").iterdir()):
            adapter: Adapter = {}
            for key, value in load_file(folder / "adapter_model.safetensors").items():
                layer, _, part = key.removeprefix("base_model.model.").partition(".owlora_")
                adapter.setdefault(layer, {})[part] = value.double().numpy()
            found.append(adapter)
        return found


def second_version_says(run: Path, stream: Stream) -> dict[str, tuple[bytes, ...]]:
    """Version 2's predictions for every slide of its tasks, as bytes, with the task recognised and given."""
    predictor = Predictor.open(run, version=2)
    says: dict[str, tuple[bytes, ...]] = {}
    for slide in stream.slides(task="colon") + stream.slides(task="kidney"):
        bag = read_bag(stream.bag(slide))
        for task in (None, slide.partition("-")[0]):
            prediction = predictor.predict(bag, task=task)
            assert prediction.probabilities is not None
            rest = json.dumps([prediction.predicted_class, prediction.threshold, prediction.positive]).encode()
            says[f"{slide} {task}"] = (prediction.probabilities.tobytes(), prediction.instance_scores.tobytes(), rest)
    return says


def files_of_two(run: Path) -> dict[str, bytes]:
    """Versions 1 and 2 and their evaluations, byte for byte."""
    found = {f"{part}/{name}": content for part in ("versions", "evaluations") for name, content in tree(run / part).items()}
    return {name: content for name, content in found.items() if "/003" not in name}


@pytest.fixture(scope="module")
def learned(toy_stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Learned]:
    """Two tasks in one training, the third by ``add_task``; by basis."""
    runs = {}
    for basis in ("features", "weights"):
        settings = toy_stream.settings({**OWLORA, "basis": basis}, tasks=["colon", "kidney"], **TRAINING)
        run = comel.train(settings, tmp_path_factory.mktemp("sound") / basis, quiet=True)
        before, files = second_version_says(run, toy_stream), files_of_two(run)
        comel.add_task(run, toy_stream.manifest, toy_stream.bags, tasks=["liver"], quiet=True)
        runs[basis] = Learned(run, before, files)
    return runs


def protected_by_weights(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Leading singular directions that hold the energy, fewer where the declared adapters need the room; in, out."""
    left, spectrum, right = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    shares = np.cumsum(spectrum**2) / np.sum(spectrum**2)
    count = int(np.argmax(shares >= ENERGY - 1e-12)) + 1
    room_in, room_out = (size - (DECLARED - 1) * RANK for size in (right.shape[1], left.shape[0]))
    return right[: min(count, room_in)].T, left[:, : min(count, room_out)]


def all_layers(learned: Learned) -> list[str]:
    layers = sorted(learned.adapters()[0])
    assert len(layers) == 8
    return layers


def off(product: np.ndarray) -> float:
    """The largest entry, which has to be 0."""
    return float(np.abs(product).max()) if product.size else 0.0


@BASES
def test_every_adapter_is_orthonormal_and_has_learned(learned: dict[str, Learned], basis: str) -> None:
    assert len(learned[basis].adapters()) == 2
    for adapter in learned[basis].adapters():
        for layer in all_layers(learned[basis]):
            a, b, s = (adapter[layer][part] for part in "ABs")
            assert off(a @ a.T - np.eye(RANK)) < TOLERANCE, layer
            assert off(b.T @ b - np.eye(RANK)) < TOLERANCE, layer
            assert np.abs(s).max() > 1e-3, layer


@BASES
def test_adapters_read_nothing_that_another_reads(learned: dict[str, Learned], basis: str) -> None:
    first, second = learned[basis].adapters()
    for layer in all_layers(learned[basis]):
        assert off(second[layer]["A"] @ first[layer]["A"].T) < TOLERANCE, layer
        if basis == "weights":
            assert off(second[layer]["B"].T @ first[layer]["B"]) < TOLERANCE, layer


def test_adapters_are_outside_the_base_weights_subspaces(learned: dict[str, Learned]) -> None:
    run = learned["weights"]
    base = load_file(run.folder(3) / "base.safetensors")
    for layer in all_layers(run):
        inside, outside = protected_by_weights(base[f"{layer}.weight"])
        assert min(inside.shape[1], outside.shape[1]) >= RANK
        for adapter in run.adapters():
            assert off(adapter[layer]["A"] @ inside) < TOLERANCE, layer
            assert off(adapter[layer]["B"].T @ outside) < TOLERANCE, layer


def test_adapters_are_outside_the_old_tasks_inputs(learned: dict[str, Learned]) -> None:
    """Against what the version before each task protects, which holds the energy of that task's inputs."""
    run = learned["features"]
    for version, adapter in enumerate(run.adapters(), start=1):
        bases = load_file(run.folder(version) / "bases.safetensors")
        for layer in all_layers(run):
            q = bases[layer].numpy()
            assert q.shape[1] >= RANK
            assert off(q.T @ q - np.eye(q.shape[1])) < TOLERANCE
            assert off(adapter[layer]["A"] @ q) < TOLERANCE, layer


def test_what_is_protected_holds_the_old_bags(learned: dict[str, Learned], toy_stream: Stream) -> None:
    """The first layer's basis after task 1, against that task's features themselves: 99 % of their energy, or no room."""
    q = load_file(learned["features"].folder(1) / "bases.safetensors")["embed"].numpy()
    bags = [read_bag(toy_stream.bag(slide)).features for slide in toy_stream.slides(task="colon", split="train")]
    share = sum(np.sum((x @ q) ** 2) / len(x) for x in bags) / sum(np.sum(x**2) / len(x) for x in bags)
    assert share >= ENERGY or q.shape[1] == DIMENSION - (DECLARED - 1) * RANK
    random = np.linalg.qr(np.random.default_rng(0).normal(size=q.shape))[0]
    assert share > 0.9 > sum(np.sum((x @ random) ** 2) / len(x) for x in bags) / sum(np.sum(x**2) / len(x) for x in bags)


@BASES
def test_the_base_is_the_first_tasks_network_to_the_end(learned: dict[str, Learned], basis: str) -> None:
    run = learned[basis]
    first = {
        name.removeprefix("trunk."): value
        for name, value in load_file(run.folder(1) / "model.safetensors").items()
        if name.startswith("trunk.")
    }
    for version in (2, 3):
        base = load_file(run.folder(version) / "base.safetensors")
        assert base.keys() == first.keys()
        assert all(torch.equal(base[name], value) for name, value in first.items())
    assert all(np.array_equal(run.adapters(2)[0][layer][part], run.adapters(3)[0][layer][part])
               for layer in all_layers(run) for part in "ABs")  # fmt: skip


@BASES
def test_the_merged_trunk_is_the_base_plus_the_adapters(learned: dict[str, Learned], basis: str) -> None:
    """W0 + sum B diag(s) A, in numpy, against the weights that inference loads; everything else is W0's."""
    run = learned[basis]
    base, merged = load_file(run.folder(3) / "base.safetensors"), load_file(run.folder(3) / "model.safetensors")
    for name, value in base.items():
        expected, layer = value.double().numpy(), name.removesuffix(".weight")
        if layer in all_layers(run) and name.endswith(".weight"):
            expected = expected + sum((a[layer]["B"] * a[layer]["s"]) @ a[layer]["A"] for a in run.adapters())
        np.testing.assert_allclose(merged[f"trunk.{name}"].double().numpy(), expected, rtol=0, atol=1e-6)


@BASES
def test_merged_and_unmerged_give_the_same_logits(learned: dict[str, Learned], basis: str, toy_stream: Stream) -> None:
    run = learned[basis]
    info = RunDirectory(run.run).info()
    merged, unmerged = build_model(info.model).eval(), build_model(info.model).eval()
    strategy = OWLora(OWLoraOptions(**{k: v for k, v in info.strategy.items() if k != "name"}))
    load_state(run.folder(3), merged)
    load_state(run.folder(3), unmerged, strategy)
    assert any("owlora_A.003" in name for name, _ in unmerged.named_parameters())
    with torch.no_grad():
        for slide in toy_stream.slides(split="test"):
            x = torch.from_numpy(read_bag(toy_stream.bag(slide)).features).unsqueeze(0)
            one, other = merged(x), unmerged(x)
            assert isinstance(one, BagOutput)
            for name in ("logits", "head_logits", "bag_features", "instance_scores"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


FRESH = """
import json, sys
from pathlib import Path
import torch
import comel.owlora
from peft import PeftModel
from safetensors.torch import load_file
from comel.models.comel import CoMELOptions, Trunk
options = json.loads(sys.argv[1])
for folder in map(Path, sys.argv[2:]):
    data = load_file(folder / "data.safetensors")
    trunk = Trunk(data["x"].shape[-1], CoMELOptions(**options)).eval()
    version = Path((folder / "version").read_text())
    trunk.load_state_dict(load_file(version / "base.safetensors"))
    names = sorted(path.name for path in (version / "adapters").iterdir())
    model = PeftModel.from_pretrained(trunk, str(version / "adapters" / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(version / "adapters" / name), adapter_name=name)
    model.base_model.set_adapter(names)
    h, z, attention = model(data["x"])
    torch.testing.assert_close(h, data["h"], rtol=0, atol=1e-6)
    torch.testing.assert_close(z, data["z"], rtol=0, atol=1e-6)
    model.base_model.set_adapter(names[:1])
    assert (model(data["x"])[1] - data["z"]).abs().max() > 1e-3
    print(len(names))
"""


def test_plain_peft_opens_the_adapters_in_a_fresh_process(
    learned: dict[str, Learned], toy_stream: Stream, tmp_path: Path
) -> None:
    x = torch.from_numpy(read_bag(toy_stream.bag("liver-07")).features).unsqueeze(0)
    for basis, run in learned.items():
        info = RunDirectory(run.run).info()
        model = build_model(info.model).eval()
        load_state(run.folder(3), model, OWLora(OWLoraOptions(**{k: v for k, v in info.strategy.items() if k != "name"})))
        (tmp_path / basis).mkdir()
        with torch.no_grad():
            h, z, _ = model.trunk(x)
        save_file({"x": x, "h": h.contiguous(), "z": z}, tmp_path / basis / "data.safetensors")
        (tmp_path / basis / "version").write_text(str(run.folder(3)))
    options = json.dumps({key: value for key, value in MODEL.items() if key != "name"})
    environment = {**os.environ, "PYTHONPATH": str(Path(comel.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH, options, *(str(tmp_path / basis) for basis in learned)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2"]


@BASES
def test_the_second_version_says_and_holds_what_it_did(learned: dict[str, Learned], basis: str, toy_stream: Stream) -> None:
    """Bit for bit, after the third task: every file of it, and every prediction for its tasks' slides."""
    run = learned[basis]
    assert RunDirectory(run.run).info().version == 3
    assert files_of_two(run.run) == run.files
    after = second_version_says(run.run, toy_stream)
    assert len(after) == 64
    assert after == run.before
    third = Predictor.open(run.run).predict(read_bag(toy_stream.bag("kidney-07")))
    assert len(third.classes) == 6


@BASES
def test_the_second_version_does_not_depend_on_what_was_planned_after_it(
    learned: dict[str, Learned], basis: str, toy_stream: Stream, tmp_path: Path
) -> None:
    """A run of three tasks in one training gives the same second version, and the same third."""
    whole = comel.train(toy_stream.settings({**OWLORA, "basis": basis}, **TRAINING), tmp_path / "whole", quiet=True)
    weights = {name: content for name, content in tree(whole / "versions").items() if name.endswith(".safetensors")}
    other = {n: content for n, content in tree(learned[basis].run / "versions").items() if n.endswith(".safetensors")}
    assert weights == other


@BASES
def test_the_capacity_report_adds_up(learned: dict[str, Learned], basis: str) -> None:
    """Against the files: bases counted for ``features``, singular directions and adapters for ``weights``."""
    run = learned[basis]
    base = load_file(run.folder(3) / "base.safetensors")
    for version in (2, 3):
        report, adapters = RunDirectory(run.run).info(version).report, version - 1
        assert set(report["capacity"]) == set(all_layers(run))
        for name, layer in report["capacity"].items():
            width_out, width_in = base[f"{name}.weight"].shape
            assert layer["in"] == width_in
            if basis == "features":
                protected = int(np.linalg.matrix_rank(load_file(run.folder(version) / "bases.safetensors")[name].numpy()))
                free, free_out = width_in - protected, width_out
            else:
                inside, outside = protected_by_weights(base[f"{name}.weight"])
                protected = inside.shape[1]
                free = width_in - protected - adapters * RANK
                free_out = width_out - outside.shape[1] - adapters * RANK
            assert (layer["protected"], layer["free"], layer["free_out"]) == (protected, free, free_out), name
            fits = min(min(free, free_out) // RANK, DECLARED - 1 - adapters)
            assert layer["adapters_left"] == fits >= DECLARED - 1 - adapters
        assert report["adapters_left"] == min(layer["adapters_left"] for layer in report["capacity"].values())
        assert ("warning" in report) == (report["adapters_left"] < 2)


def test_the_first_report_names_each_layers_own_width(learned: dict[str, Learned]) -> None:
    report = RunDirectory(learned["features"].run).info(1).report
    base = load_file(learned["features"].folder(3) / "base.safetensors")
    bases = load_file(learned["features"].folder(1) / "bases.safetensors")
    for name, layer in report["capacity"].items():
        width_out, width_in = base[f"{name}.weight"].shape
        protected = bases[name].shape[1]
        assert (layer["in"], layer["protected"], layer["free"]) == (width_in, protected, width_in - protected)
        assert layer["free_out"] == width_out, name


def trained_epochs(run: Path) -> int:
    events = run / "events.jsonl"
    lines = events.read_text().splitlines() if events.exists() else []
    return sum(json.loads(line)["event"] == "epoch" for line in lines)


def refused(work: Callable[[], Any], match: str) -> None:
    with pytest.raises(CapacityError, match=match):
        work()


@BASES
def test_too_many_declared_adapters_are_an_error_before_training(basis: str, toy_stream: Stream, tmp_path: Path) -> None:
    strategy = {**OWLORA, "basis": basis, "rank": 6}
    refused(
        lambda: comel.train(toy_stream.settings(strategy), tmp_path / "run", quiet=True),
        r"pool\.v has 16 directions, too few for 3 adapters of rank 6; set strategy\.rank=5, or",
    )
    assert trained_epochs(tmp_path / "run") == 0
    assert RunDirectory(tmp_path / "run").versions() == []


@BASES
def test_a_stream_longer_than_declared_is_an_error_before_training(basis: str, toy_stream: Stream, tmp_path: Path) -> None:
    strategy = {**OWLORA, "basis": basis, "tasks": 2}
    refused(
        lambda: comel.train(toy_stream.settings(strategy), tmp_path / "run", quiet=True),
        r"the stream has 3 tasks, and strategy\.tasks declares 2; set strategy\.tasks=3 or more",
    )
    assert trained_epochs(tmp_path / "run") == 0
