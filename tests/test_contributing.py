"""The worked examples of CONTRIBUTING.md are whole: each fits where the guide says that it goes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from sklearn.metrics import cohen_kappa_score

from comel.app.benchmark.mixers import checks
from comel.base.registry import resolve_name
from comel.cohort.classes import Head
from comel.errors import SlideError
from comel.models.base import BagBatch
from pipelines.slides import slide as slides
from service.access.keys import KeyStore
from service.settings import ServiceSettings
from tests.comel.strategies import tiny
from tests.places import ROOT
from tests.service.conftest import FakePredictor
from tests.service.in_process import app_with

GUIDE = ROOT / "CONTRIBUTING.md"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sources() -> dict[str, str]:
    """The code under each heading that has some."""
    sections = [part.partition("\n") for part in GUIDE.read_text(encoding="utf-8").split("\n## ")[1:]]
    return {title: "".join(CODE.findall(text)) for title, _, text in sections if CODE.search(text)}


def example(title: str) -> dict[str, Any]:
    """What the code under a heading defines."""
    names: dict[str, Any] = {"__name__": "contributed"}
    exec(compile(sources()[title], f"CONTRIBUTING.md, {title}", "exec"), names)
    return names


def test_every_kind_of_addition_has_an_example_that_is_linted(tmp_path: Path) -> None:
    assert list(sources()) == [
        "A model", "A layer", "A mixer", "A strategy", "A patch encoder", "A slide reader", "A route", "A score",
    ]  # fmt: skip
    for number, text in enumerate(sources().values()):
        (tmp_path / f"example_{number}.py").write_text(text, encoding="utf-8")
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    checks = [["check", "--ignore", "INP001,I001"], ["format", "--check"]]
    for check in checks:
        done = subprocess.run(
            [ruff, *check, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_file_that_an_example_names_goes_where_its_neighbours_are() -> None:
    places = re.findall(r"^```python\n# (\S+\.py)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(places) == 6
    for place in places:
        assert (ROOT / place).parent.is_dir()
        assert not (ROOT / place).exists(), "the guide's example is shipped by now: choose another"


def test_the_mixer_keeps_to_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = example("A mixer")["Neighbourly"]
    monkeypatch.setattr(checks, "make_mixer", lambda name, width, options: kind(width))
    assert all(checks.check_mixer("neighbourly").values())


def test_the_model_is_its_equation_and_keeps_padding_out() -> None:
    kind = example("A model")["PowerMean"]
    torch.manual_seed(0)
    heads = (Head("colon", ("normal", "tumour"), "normal"), Head("lung", ("adeno", "squamous"), None))
    model = kind(6, kind.Options(dim=8, dropout=0.0), heads).double().eval()
    x = torch.rand(1, 5, 6, dtype=torch.float64)
    alone = model(x)
    h = model.trunk.embedding(x)[0].detach().numpy().clip(1e-6)
    assert np.allclose(alone.bag_features[0].detach().numpy(), (h**3).mean(axis=0) ** (1 / 3))
    padded = torch.cat([x, torch.full((1, 3, 6), 9.0, dtype=torch.float64)], dim=1)
    together = model(BagBatch(padded, None, torch.arange(8).unsqueeze(0) < 5))
    assert torch.allclose(together.logits, alone.logits)
    assert torch.allclose(together.attention[:, :5], alone.attention)
    assert not together.attention[:, 5:].any()
    assert torch.allclose(alone.attention.sum(dim=1), torch.ones(1, dtype=torch.float64))


def test_the_layer_is_its_equation_and_keeps_padding_out() -> None:
    layer = example("A layer")["Centring"](4).double()
    h = torch.randn(1, 6, 4, dtype=torch.float64)
    assert torch.equal(layer(h), h)
    torch.nn.init.ones_(layer.weight)
    assert torch.allclose(layer(h), h - h.mean(dim=1, keepdim=True))
    mask = torch.tensor([[True, True, True, True, False, False]])
    assert torch.allclose(layer(h, mask)[:, :4], layer(h[:, :4]))
    assert not layer(h, mask)[:, 4:].any()
    assert torch.autograd.gradcheck(layer, (h.requires_grad_(),))


def test_the_strategy_slows_the_trunk_from_the_second_task_on() -> None:
    kind = example("A strategy")["SlowTrunk"]
    strategy, model = kind(kind.Options(lr_scale=0.25)), tiny.new_model()
    rates = []
    for index in range(2):
        optimizer = tiny.begin(model, strategy, index)
        trunk, head = optimizer.param_groups
        assert {id(p) for p in trunk["params"]} == {id(p) for p in model.trunk.parameters()}
        assert {id(p) for p in head["params"]} == {id(p) for p in model.head_parameters(index)}
        rates.append(trunk["lr_scale"])
    assert rates == [1.0, 0.25]


def test_the_patch_encoder_has_a_loader() -> None:
    facts = example("A patch encoder")["facts"]
    assert callable(resolve_name("our-vit", {"our-vit": facts.loader}, "comel.encoders"))
    assert facts.page == "https://huggingface.co/our-lab/our-vit"


def test_the_slide_reader_reads_what_a_slide_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = example("A slide reader")["ArrayImage"]
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    np.save(tmp_path / "slide.npy", pixels)
    monkeypatch.setattr(slides, "open_handle", reader)
    with slides.open_slide(tmp_path / "slide.npy", mpp=0.5) as slide:
        assert slide.dimensions == (90, 60)
        assert (np.asarray(slide.read_area(0, (10, 20, 42, 52), (32, 32))) == pixels[20:52, 10:42]).all()
        outside = np.asarray(slide.read_region((80, 50), 0, (20, 20)))
    assert (outside[:10, :10] == pixels[50:, 80:]).all()
    assert (outside[10:] == 255).all()
    with pytest.raises(SlideError, match="mpp"):
        slides.open_slide(tmp_path / "slide.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(SlideError, match="not a numpy array"):
        reader(tmp_path / "text.npy")


def test_the_route_answers_those_who_may_read(tmp_path: Path) -> None:
    router = example("A route")["router"]
    settings = ServiceSettings(state_dir=tmp_path / "state", runs={})
    key = KeyStore(settings.state_dir).add("reader", "read")
    service = app_with(settings, FakePredictor())
    service.include_router(router)
    with TestClient(service) as client:
        assert client.get("/v1/queue").status_code == 401
        answer = client.get("/v1/queue", headers={"X-API-Key": key})
    assert (answer.status_code, answer.json()) == (200, {"queued": 0, "running": 0})
    assert "read_queue" in {operation["operationId"] for operation in service.openapi()["paths"]["/v1/queue"].values()}


def test_the_score_agrees_with_scikit_learn() -> None:
    kappa = example("A score")["cohens_kappa"]
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 50)
    predicted = np.where(draw.random(50) < 0.6, truth, draw.integers(0, 3, 50))
    assert kappa(predicted, truth) == pytest.approx(cohen_kappa_score(predicted, truth))
    assert kappa(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])) == pytest.approx(0.5)
    assert kappa(truth, truth) == 1
    assert kappa(truth[:0], truth[:0]) is None
    assert kappa(np.zeros(4), np.zeros(4)) is None
