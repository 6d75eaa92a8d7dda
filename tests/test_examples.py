"""The examples run as their first lines say, and the model and the strategy among them keep to their contracts."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import comel
from comel.bags.bag import read_bag
from comel.cohort.classes import Head
from comel.errors import ConfigError
from comel.models.base import BagBatch
from comel.prediction.prediction import Prediction
from comel.runs.directory import RunDirectory
from tests.comel.toys import killed
from tests.places import ROOT
from tests.test_tutorial import commands, unknown_words

EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
HEADS = (Head("colon", ("normal", "tumour"), "normal"), Head("lung", ("adeno", "squamous"), None))
SMALL = {"dim": 32, "dropout": 0.0}
TRAINER = {"epochs": 8, "lr": 3e-3, "threads": 1, "device": "cpu"}


def run_example(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def named(file: str) -> dict[str, Any]:
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / file))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``make_bags.py`` fills."""
    folder = tmp_path_factory.mktemp("practice")
    assert run_example("make_bags.py", folder) == f"{folder / 'manifest.csv'}\n"
    return folder


def settings(cohort: Path, *, tasks: list[str] | None = None, **sections: Any) -> dict[str, Any]:
    data = {"manifest": cohort / "manifest.csv", "bags": cohort / "bags", "tasks": tasks}
    model = {"name": "abmil", "dim": 32, "attention_hidden": 8}
    return {"data": data, "model": model, "strategy": {"name": "finetune"}, "trainer": TRAINER, **sections}


def model_settings(**options: Any) -> dict[str, Any]:
    return {"name": f"{EXAMPLES / 'own_model.py'}:SmoothMax", **SMALL, **options}


def strategy_settings(**options: Any) -> dict[str, Any]:
    return {"name": f"{EXAMPLES / 'own_strategy.py'}:StayNear", **options}


def test_the_bags_are_whole(cohort: Path) -> None:
    entries = comel.check_bags([cohort / "bags"])
    assert len(entries) == 32
    assert not [entry for entry in entries if "error" in entry]
    positive = {Path(entry["file"]).stem: entry["positive_instances"] for entry in entries}
    assert positive["colon-00"] == 0
    assert positive["kidney-01"] == 12


def test_a_bag_is_described(cohort: Path) -> None:
    lines = run_example("read_a_bag.py", cohort / "bags" / "colon-01.h5").splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    bag = read_bag(cohort / "bags" / "colon-01.h5")
    assert told["features"] == f"{len(bag)} tiles of {bag.features.shape[1]} numbers, float32"
    assert told["tiles"] == "256 px at 0.5 um/px"
    assert "its centre is at (64, 64) um" in told["first"]  # half of 256 px at 0.5 um/px
    assert told["labels"] == "12 positive, 36 negative, 0 unknown"


@pytest.mark.parametrize("name", ["make_bags.py", "read_a_bag.py"])
def test_an_example_without_its_argument_says_how_it_is_called(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"usage: python {name} ")


@pytest.mark.parametrize("sharpness", [1e-4, 4.0, 1e4])
def test_the_model_pools_between_mean_and_maximum(sharpness: float) -> None:
    pooling = named("own_model.py")["LogSumExpPooling"](sharpness)
    h = torch.randn(1, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, attention = pooling(h)
    expected = np.log(np.exp(4.0 * h[0].numpy()).mean(axis=0)) / 4.0
    known = {1e-4: h[0].mean(dim=0).numpy(), 4.0: expected, 1e4: h[0].max(dim=0).values.numpy()}[sharpness]
    assert np.allclose(z[0].numpy(), known, atol=1e-3)
    assert torch.allclose(attention.sum(dim=1), torch.ones(1, dtype=torch.float64))


def test_the_models_attention_is_how_much_a_tile_moves_the_bag_feature() -> None:
    pooling = named("own_model.py")["LogSumExpPooling"](2.0)
    h = torch.randn(1, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    z, attention = pooling(h)
    (moved,) = torch.autograd.grad(z.sum(), h)  # (1, M, dim): dz_d / dh_md, since z_d depends on column d alone
    assert torch.allclose(moved.mean(dim=-1), attention)


def test_padding_and_order_do_not_matter_to_the_model() -> None:
    kind = named("own_model.py")["SmoothMax"]
    torch.manual_seed(0)
    model = kind(6, kind.Options(**SMALL), HEADS).double().eval()
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    alone = model(x)
    padded = torch.cat([x, torch.full((1, 4, 6), 50.0, dtype=torch.float64)], dim=1)
    mask = torch.arange(13).unsqueeze(0) < 9
    together, turned = model(BagBatch(padded, None, mask)), model(x.flip(1))
    assert torch.allclose(together.logits, alone.logits)
    assert torch.allclose(together.instance_scores[:, :9], alone.instance_scores)
    assert not together.instance_scores[:, 9:].any()
    assert not together.attention[:, 9:].any()
    assert torch.allclose(turned.logits, alone.logits)
    assert torch.allclose(turned.attention.flip(1), alone.attention)


def test_the_model_learns_with_adapters_and_is_loaded_again_from_its_file(cohort: Path, tmp_path: Path) -> None:
    strategy = {"name": "owlora", "rank": 4, "tasks": 3}
    chosen = settings(cohort, model=model_settings(dim=64), strategy=strategy, trainer={**TRAINER, "epochs": 15})
    run, trust = comel.train(chosen, tmp_path / "run", quiet=True), [EXAMPLES / "own_model.py"]
    means = comel.evaluate(run, cohort / "manifest.csv", cohort / "bags", trust=trust, quiet=True)["mean"]
    scores = means["task_incremental"]
    assert scores["bag"]["accuracy"] >= 0.75
    assert scores["instance"]["auc"] > 0.9
    [prediction] = comel.predict(run, [cohort / "bags" / "kidney-15.h5"], tmp_path / "out", trust=trust, quiet=True)
    assert isinstance(prediction, Prediction)
    assert prediction.predicted_class == "kidney/tumour"


def trunk_of(run: Path, version: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    state = load_file(RunDirectory(run).version_folder(version) / "model.safetensors")
    return {name: weights for name, weights in state.items() if name.startswith("trunk.")}


def moved(run: Path) -> float:
    """How far the trunk of version 2 is from that of version 1."""
    before, after = trunk_of(run, 1), trunk_of(run, 2)
    return float(sum((after[name] - before[name]).square().sum() for name in before) ** 0.5)


def test_the_strategy_holds_the_trunk_near_where_the_first_task_left_it(cohort: Path, tmp_path: Path) -> None:
    distances = {}
    for strength in (0.0, 10.0):
        strategy = strategy_settings(strength=strength)
        run = comel.train(settings(cohort, strategy=strategy), tmp_path / str(strength), quiet=True)
        distances[strength] = moved(run)
    finetune = comel.train(settings(cohort), tmp_path / "finetune", quiet=True)
    assert distances[0.0] == pytest.approx(moved(finetune), rel=1e-6)
    assert distances[10.0] < distances[0.0] / 2


def test_a_training_by_the_strategy_goes_on_where_it_was_killed(cohort: Path, tmp_path: Path) -> None:
    trainer = {**TRAINER, "epochs": 3, "checkpoint_seconds": 0}
    chosen = settings(cohort, strategy=strategy_settings(strength=1.0), trainer=trainer)
    whole = comel.train(chosen, tmp_path / "whole", quiet=True)
    renames = killed(lambda: comel.train(chosen, tmp_path / "counted", quiet=True))
    broken = tmp_path / "broken"
    at = next(at for at in range(renames, 0, -1) if _dies_inside_the_second_task(chosen, broken, at))
    assert 0 < at <= renames
    comel.train(chosen, broken, quiet=True)
    for version in (1, 2):
        one, other = trunk_of(whole, version), trunk_of(broken, version)
        assert all(torch.equal(one[name], other[name]) for name in one)


def _dies_inside_the_second_task(chosen: dict[str, Any], out: Path, at: int) -> bool:
    shutil.rmtree(out, ignore_errors=True)
    killed(lambda: comel.train(chosen, out, quiet=True), at=at)
    return RunDirectory(out).versions() == [1] and (out / "checkpoint" / "anchor.safetensors").exists()


def test_the_strategy_refuses_an_unknown_option(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strength"):
        comel.train(settings(cohort, strategy=strategy_settings(strenght=1.0)), tmp_path / "run", quiet=True)


def test_the_encoder_makes_bags_from_slides(tmp_path: Path) -> None:
    manifest = comel.synth(tmp_path / "slides", organs=("colon",), slides_per_organ=2, size=512, quiet=True)
    encoder = f"{EXAMPLES / 'own_encoder.py'}:DensityHistogram"
    report = comel.extract(manifest, tmp_path / "bags", encoder=encoder, workers=1, quiet=True)
    assert not report.failed
    bag = read_bag(tmp_path / "bags" / "colon-0001.h5", verify=True)
    assert bag.contract.encoder == "density-histogram"
    assert len(bag) > 0
    for colour in range(3):
        assert np.allclose(bag.features.astype(np.float64)[:, colour::3].sum(axis=1), 1, atol=5e-3)  # shares of all pixels


def test_the_encoders_bins_are_optical_densities() -> None:
    encode = named("own_encoder.py")["DensityHistogram"]("cpu").encode
    tiles = np.zeros((2, 8, 8, 3), np.uint8)
    tiles[0], tiles[1, ..., 0] = 255, 255  # white; red that takes away all green and blue
    features = encode(tiles).reshape(2, -1, 3)
    assert (features[0, 0] == 1).all()
    assert features[1, 0].tolist() == [1, 0, 0]
    assert features[1, -1].tolist() == [0, 1, 1]


RUN_NOTEBOOK = """
import sys, nbclient, nbformat

book = nbformat.read(sys.argv[1], as_version=4)
assert not [cell for cell in book.cells if cell.get("outputs")], "commit the notebook without outputs"
client = nbclient.NotebookClient(book, timeout=600)
client.create_kernel_manager()
client.km.transport, client.km.ip = "ipc", "kernel"
client.execute()
nbformat.write(book, sys.argv[1])
"""


def test_the_notebook_runs() -> None:
    """In a process of its own, for the client of the kernel leaves sockets open."""
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    with tempfile.TemporaryDirectory() as folder:  # short, since the kernel's sockets lie in it
        for name in ("make_bags.py", "from_features_to_a_report.ipynb"):
            shutil.copy(EXAMPLES / name, folder)
        command = [sys.executable, "-W", "ignore", "-c", RUN_NOTEBOOK, "from_features_to_a_report.ipynb"]
        about = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": folder}
        subprocess.run(command, cwd=folder, env=about, check=True, timeout=600)
        book = nbformat.read(Path(folder) / "from_features_to_a_report.ipynb", as_version=4)
        (report,) = Path(folder).glob("comel-*/run/report.html")
        assert "kidney" in report.read_text(encoding="utf-8")
        assert list(Path(folder).glob("comel-*/predictions/kidney-15.png"))
    texts = [output.get("text", "") for cell in book.cells for output in cell.get("outputs", ())]
    assert any(text.startswith("kidney/tumour") for text in texts)


def test_the_commands_in_the_examples_exist() -> None:
    shown = [words for path in sorted(EXAMPLES.glob("*.py")) for words in commands(path)]
    assert {words[0] for words in shown} >= {"train", "synth", "extract"}
    assert not [words for words in shown if unknown_words(words)]
