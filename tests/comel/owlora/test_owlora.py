"""OWLoRA as a PEFT tuner: what stays orthogonal under an ordinary optimizer, and what survives a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from comel.errors import CapacityError
from comel.owlora import OWLoraConfig, OWLoraLinear, OWLoraModel, subspace
from tests.places import ROOT

RANK, TASKS = 3, 3
SHAPES = {"first": (20, 32), "second": (32, 24)}  # in, out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(*SHAPES["first"]), nn.Linear(*SHAPES["second"]), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.second(torch.relu(self.first(x)))))
        return logits


def net() -> Net:
    torch.manual_seed(5)
    return Net()


def config(basis: str = "weights", **changes: object) -> OWLoraConfig:
    settings: dict[str, object] = {"r": RANK, "target_modules": ["first", "second"], "basis": basis, "tasks": TASKS}
    return OWLoraConfig(**{**settings, **changes})  # type: ignore[arg-type]


def input_bases(width: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.linalg.qr(torch.randn(shape[0], width, dtype=torch.float64, generator=generator)).Q
        for name, shape in SHAPES.items()
    }


def tuner(model: PeftModel) -> OWLoraModel:
    assert isinstance(model.base_model, OWLoraModel)
    return model.base_model


def adapted(model: PeftModel, name: str) -> OWLoraLinear:
    layer = dict(tuner(model).adapted_layers())[name]
    assert isinstance(layer, OWLoraLinear)
    return layer


def add_task(model: PeftModel | None, name: str, basis: str) -> PeftModel:
    """A network with one more adapter, all of them active and the newest alone trainable."""
    if model is None:
        model = get_peft_model(net(), config(basis), adapter_name=name)
    else:
        model.add_adapter(name, config(basis))
    if basis == "features":
        tuner(model).protect(input_bases(), name)
    tuner(model).set_adapter(list(model.peft_config))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("owlora_" in key and key.endswith(f".{name}"))
    return model


def train(model: PeftModel, name: str, steps: int, seed: int = 0, learning_rate: float = 1e-2) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(64, 20, generator=generator), torch.randint(0, 2, (64,), generator=generator)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        tuner(model).retract(name)


def two_tasks(basis: str, steps: int = 100) -> PeftModel:
    model = None
    for seed, name in enumerate(("002-lung", "003-colon")):
        model = add_task(model, name, basis)
        train(model, name, steps, seed)
    assert model is not None
    return model


@pytest.mark.parametrize("basis", ["weights", "features"])
def test_orthogonality_holds_after_training(basis: str) -> None:
    original = net()
    model = two_tasks(basis)
    for name, layer in tuner(model).adapted_layers():
        a = {key: value.detach().double() for key, value in layer.owlora_A.items()}
        b = {key: value.detach().double() for key, value in layer.owlora_B.items()}
        eye = torch.eye(RANK, dtype=torch.float64)
        if basis == "weights":
            weight = getattr(original, name).weight.detach().double()
            left, spectrum, right = torch.linalg.svd(weight, full_matrices=False)
            count = subspace.count_for_energy(spectrum**2, 0.95)
            inside, outside = (min(count, size - TASKS * RANK) for size in SHAPES[name])
            protected_in, protected_out = right[:inside].T, left[:, :outside]
            assert min(inside, outside) > 0
            for key in b:
                assert (b[key].T @ protected_out).abs().max() < 1e-5
            assert (b["002-lung"].T @ b["003-colon"]).abs().max() < 1e-5
        else:
            protected_in = input_bases()[name]
        for key in a:
            assert (a[key] @ protected_in).abs().max() < 1e-5
            torch.testing.assert_close(a[key] @ a[key].T, eye, rtol=0, atol=1e-5)
            torch.testing.assert_close(b[key].T @ b[key], eye, rtol=0, atol=1e-5)
            assert layer.owlora_s[key].abs().min() > 1e-3  # it has learned something
        assert (a["002-lung"] @ a["003-colon"].T).abs().max() < 1e-5
        assert torch.equal(layer.base_layer.weight, getattr(original, name).weight)


def test_training_moves_the_directions_too() -> None:
    model = add_task(None, "002-lung", "features")
    before = {name: layer.owlora_A["002-lung"].detach().clone() for name, layer in tuner(model).adapted_layers()}
    train(model, "002-lung", 30)
    for name, layer in tuner(model).adapted_layers():
        assert (layer.owlora_A["002-lung"] - before[name]).abs().max() > 1e-2


def test_features_outside_nothing_old_reads_what_it_read() -> None:
    """Inputs inside the protected basis come out of a layer as before the adapter, however it was trained."""
    model, original = two_tasks("features", steps=30), net()
    x = (torch.randn(5, 8, dtype=torch.float64) @ input_bases()["first"].T).float()
    layer = adapted(model, "first")
    torch.testing.assert_close(layer(x), original.first(x), rtol=0, atol=1e-5)
    anywhere = torch.randn(5, 20)
    assert (layer(anywhere) - original.first(anywhere)).abs().max() > 1e-2


@pytest.mark.parametrize("basis", ["weights", "features"])
def test_a_fresh_adapter_changes_nothing(basis: str) -> None:
    x = torch.randn(7, 20)
    model = add_task(None, "002-lung", basis)
    torch.testing.assert_close(model(x), net()(x), rtol=0, atol=1e-6)
    train(model, "002-lung", 20)
    trained = model(x)
    torch.testing.assert_close(add_task(model, "003-colon", basis)(x), trained, rtol=0, atol=1e-6)
    assert (trained - net()(x)).abs().max() > 1e-2


def test_the_layer_is_the_sum_of_its_adapters() -> None:
    model, original = two_tasks("weights", steps=20), net()
    layer, x = adapted(model, "second"), torch.randn(2, 3, 32)
    expected = x @ original.second.weight.T + original.second.bias
    for name in ("002-lung", "003-colon"):
        for a, b, s in zip(layer.owlora_A[name], layer.owlora_B[name].T, layer.owlora_s[name], strict=True):
            expected = expected + s * (x @ a).unsqueeze(-1) * b
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_merging_keeps_the_logits_and_unmerging_the_weights() -> None:
    model, x = two_tasks("features", steps=40), torch.randn(9, 20)
    weights = {name: layer.base_layer.weight.clone() for name, layer in tuner(model).adapted_layers()}
    unmerged = model(x)
    with model.disable_adapter():
        torch.testing.assert_close(model(x), net()(x), rtol=0, atol=1e-6)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(x), unmerged, rtol=0, atol=1e-5)
    for name, layer in tuner(model).adapted_layers():
        assert (layer.base_layer.weight - weights[name]).abs().max() > 1e-3
    model.unmerge_adapter()
    for name, layer in tuner(model).adapted_layers():
        torch.testing.assert_close(layer.base_layer.weight, weights[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(model(x), unmerged, rtol=0, atol=1e-5)
    model.merge_adapter()
    with model.disable_adapter():  # takes merged ones out by itself
        torch.testing.assert_close(model(x), net()(x), rtol=0, atol=1e-5)
    plain = model.merge_and_unload()
    assert not any(isinstance(module, OWLoraLinear) for module in plain.modules())
    assert set(plain.state_dict()) == set(net().state_dict())
    torch.testing.assert_close(plain(x), unmerged, rtol=0, atol=1e-5)


def test_a_safe_merge_refuses_what_is_not_finite() -> None:
    model = add_task(None, "002-lung", "weights")
    layer = adapted(model, "first")
    before = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.owlora_s["002-lung"].fill_(torch.inf)
    with pytest.raises(ValueError, match="'002-lung' holds values that are not finite"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)


FRESH = """
import sys
from pathlib import Path
import torch
from peft import PeftModel
from safetensors.torch import load_file
import comel.owlora
sys.path.insert(0, sys.argv[2])
from tests.comel.owlora.test_owlora import Net
folder = Path(sys.argv[1])
base = Net()
base.load_state_dict(load_file(folder / "base.safetensors"))
model = PeftModel.from_pretrained(base, str(folder / "002-lung"), adapter_name="002-lung")
model.load_adapter(str(folder / "003-colon"), adapter_name="003-colon")
model.base_model.set_adapter(["002-lung", "003-colon"])
data = load_file(folder / "data.safetensors")
torch.testing.assert_close(model(data["x"]), data["y"], rtol=0, atol=1e-6)
"""


@pytest.mark.parametrize("basis", ["weights", "features"])
def test_adapters_go_through_files(basis: str, tmp_path: Path) -> None:
    model, x = two_tasks(basis, steps=20), torch.randn(6, 20)
    y = model(x).detach()
    model.save_pretrained(str(tmp_path))
    stored = load_file(tmp_path / "002-lung" / "adapter_model.safetensors")
    assert len(stored) == 6  # A, B and s of two layers; no basis
    loaded = PeftModel.from_pretrained(net(), str(tmp_path / "002-lung"), adapter_name="002-lung")
    loaded.load_adapter(str(tmp_path / "003-colon"), adapter_name="003-colon")
    tuner(loaded).set_adapter(["002-lung", "003-colon"])
    assert torch.equal(loaded(x), y)
    assert (PeftModel.from_pretrained(net(), str(tmp_path / "002-lung"))(x) - y).abs().max() > 1e-3
    if basis == "features":
        save_file(net().state_dict(), tmp_path / "base.safetensors")
        save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", FRESH, str(tmp_path), str(ROOT)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr


def test_config_goes_through_a_file(tmp_path: Path) -> None:
    written = config("features", r=5, energy=0.9, tasks=4)
    written.save_pretrained(str(tmp_path))
    read = OWLoraConfig.from_pretrained(str(tmp_path))
    names = ("r", "basis", "energy", "tasks", "target_modules", "peft_type")
    assert {name: getattr(read, name) for name in names} == {name: getattr(written, name) for name in names}
    assert read.target_modules == {"first", "second"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis": "outputs"}, "basis is 'outputs'"),
        ({"r": 0}, "r is 0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"energy": 0.0}, "energy is 0.0"),
        ({"energy": 1.5}, "energy is 1.5"),
    ],
)
def test_config_refuses_what_does_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)  # type: ignore[arg-type]


def test_capacity_by_hand() -> None:
    model = add_task(None, "002-lung", "features")
    assert tuner(model).capacity() == {
        "first": {"in": 20, "protected": 8, "free": 20 - 8 - 3, "free_out": 32},
        "second": {"in": 32, "protected": 8, "free": 32 - 8 - 3, "free_out": 24},
    }
    model = add_task(None, "002-lung", "weights")
    for name, numbers in tuner(model).capacity().items():
        width, height = SHAPES[name]
        assert numbers["in"] == width
        assert 0 < numbers["protected"] <= width - TASKS * RANK
        assert numbers["free"] == width - numbers["protected"] - RANK
        assert TASKS * RANK - RANK <= numbers["free_out"] < height


def test_running_out_of_room_is_an_error_before_training() -> None:
    model = add_task(None, "002-lung", "features")
    with pytest.raises(CapacityError, match=r"first: 2 free directions .* rank 3; lower strategy\.rank"):
        tuner(model).protect(input_bases(18), "002-lung")
    # three were declared, three fit, a fourth may not
    model = add_task(None, "t1", "weights")
    for name in ("t2", "t3"):
        model = add_task(model, name, "weights")
    for _, layer in tuner(model).adapted_layers():
        assert torch.linalg.matrix_rank(torch.cat(list(layer.owlora_A.values()))) == 3 * RANK
    with pytest.raises(CapacityError, match="free directions are left for an adapter of rank 20"):
        model.add_adapter("t4", config("weights", r=20))


def test_declared_adapters_always_fit() -> None:
    """A declared number that takes the narrow side whole leaves nothing to protect there, rather than too little room."""
    layer = nn.Sequential(nn.Linear(12, 8))
    settings = OWLoraConfig(r=4, target_modules=["0"], energy=0.99, tasks=3)
    model = get_peft_model(layer, settings, adapter_name="t1")
    assert tuner(model).capacity()["0"]["protected"] == 0
    model.add_adapter("t2", settings)
    wrapped = dict(tuner(model).adapted_layers())["0"]
    assert (wrapped.owlora_B["t1"].T @ wrapped.owlora_B["t2"]).abs().max() < 1e-5
    with pytest.raises(CapacityError, match="12 -> 8: 0 free directions"):
        model.add_adapter("t3", settings)


def test_only_linear_layers_are_adapted() -> None:
    with pytest.raises(TypeError, match="Tanh"):
        get_peft_model(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), OWLoraConfig(r=1, target_modules=["1"]))
