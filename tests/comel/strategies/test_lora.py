"""LoRA as a strategy: what trains, what stays, and what merging leaves."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import comel
from comel.errors import ConfigError, RunError
from comel.models.comel import CoMEL
from comel.prediction.predictor import Predictor
from comel.runs import checkpoint
from comel.runs.directory import RunDirectory
from comel.runs.weights import load_state, save_state
from comel.strategies.adapter import AdapterOptions, MergedAdapter
from comel.strategies.inflora import InfLora, InfLoraOptions
from comel.strategies.lora import Lora
from comel.training.loop import make_optimizer, total
from tests.comel.strategies.test_strategies import (
    CONFIG,
    bags_of,
    begin,
    head_names,
    learn,
    look,
    new_model,
    stage_of,
    trained_names,
)
from tests.comel.toys import CONTRACT, Stream, killed, tree

SOURCES = Path(comel.__file__).parent / "strategies"
FILES = {"lora": f"{SOURCES / 'lora.py'}:Lora", "inflora": f"{SOURCES / 'inflora.py'}:InfLora"}
RANK = 4
LAYERS = ["embed", "blocks.0.fc1", "blocks.0.fc2", "pool.v", *(f"blocks.0.attention.{n}" for n in ("q", "k", "v", "proj"))]
BOTH = pytest.mark.parametrize("name", ["lora", "inflora"])


def strategy_of(name: str) -> MergedAdapter:
    return Lora(AdapterOptions(rank=RANK)) if name == "lora" else InfLora(InfLoraOptions(rank=RANK, tasks=4))


def trunk_of(model: CoMEL) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.trunk.state_dict().items()}


def some_steps(model: CoMEL, strategy: MergedAdapter, optimizer: torch.optim.Optimizer, index: int, epochs: int = 3) -> None:
    """The middle of a stage: steps, and no end."""
    for group in optimizer.param_groups:
        group["lr"] = CONFIG.lr * group["lr_scale"]
    torch.manual_seed(index)
    model.train()
    for _ in range(epochs):
        for bag, column in bags_of(index):
            optimizer.zero_grad()
            total(strategy.loss(model, bag, model(bag), torch.tensor([column]))).backward()
            optimizer.step()
    model.eval()


def test_the_first_stage_trains_everything_and_later_ones_adapter_and_head() -> None:
    model, strategy = new_model(), strategy_of("lora")
    names = trained_names(model, begin(model, strategy, 0))
    assert names == {f"trunk.{name}" for name, _ in model.trunk.named_parameters()} | head_names(model, 0)
    strategy.after_task(model, stage_of(0), bags_of(0))
    for index, adapter in ((1, "002"), (2, "003")):
        optimizer = begin(model, strategy, index)
        matrices = {f"trunk.{layer}.lora_{part}.{adapter}.weight" for layer in LAYERS for part in "AB"}
        assert trained_names(model, optimizer) == matrices | head_names(model, index)
        assert [group["lr_scale"] for group in optimizer.param_groups] == [5.0, model.head_lr_scale]
        strategy.after_task(model, stage_of(index), bags_of(index))


@BOTH
def test_a_fresh_adapter_changes_nothing(name: str) -> None:
    model, strategy = new_model(), strategy_of(name)
    learn(model, strategy, 0, epochs=2)
    before = look(model)
    begin(model, strategy, 1)
    fresh = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert len(fresh) == 2 * len(LAYERS)
    after = look(model)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(after[1][:, :2], before[1], rtol=0, atol=1e-6)


@BOTH
def test_the_base_does_not_move_and_merging_adds_b_times_a(name: str) -> None:
    model, strategy = new_model(), strategy_of(name)
    learn(model, strategy, 0, epochs=2)
    old = trunk_of(model)
    optimizer = begin(model, strategy, 1)
    some_steps(model, strategy, optimizer, 1)
    now = trunk_of(model)
    for key, value in old.items():
        layer, _, kind = key.rpartition(".")
        assert torch.equal(now[f"{layer}.base_layer.{kind}" if layer in LAYERS else key], value), key
    unmerged = [look(model, task) for task in range(2)]
    promised = {key: value.clone() for key, value in strategy.merged_trunk(model).items()}
    strategy.after_task(model, stage_of(1), bags_of(1))
    merged = trunk_of(model)
    assert set(merged) == set(old)
    for key, value in old.items():
        layer, _, kind = key.rpartition(".")
        delta = (merged[key] - value).double()
        if layer in LAYERS and kind == "weight":
            a, b = (now[f"{layer}.lora_{part}.002.weight"].double() for part in "AB")
            torch.testing.assert_close(delta, b @ a, rtol=0, atol=1e-6)
            assert delta.abs().max() > 1e-3
        else:
            assert not delta.any(), key
        torch.testing.assert_close(promised[key], merged[key], rtol=0, atol=0)
    for task in range(2):
        for one, other in zip(unmerged[task], look(model, task), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


@BOTH
def test_a_task_adds_no_more_than_the_rank(name: str) -> None:
    model, strategy = new_model(), strategy_of(name)
    for index in range(3):
        old = trunk_of(model)
        learn(model, strategy, index, epochs=2)
        if index:
            for layer in LAYERS:
                spectrum = torch.linalg.svdvals((model.trunk.state_dict()[f"{layer}.weight"] - old[f"{layer}.weight"]).double())
                assert spectrum[RANK - 1] > 1e3 * spectrum[RANK], layer


@BOTH
def test_a_folder_in_the_middle_of_a_stage_brings_the_adapter_back(name: str, tmp_path: Path) -> None:
    model, strategy = new_model(), strategy_of(name)
    learn(model, strategy, 0, epochs=2)
    optimizer = begin(model, strategy, 1)
    some_steps(model, strategy, optimizer, 1, epochs=1)
    checkpoint.write(tmp_path / "checkpoint", "plan", 1, 1, model, strategy, optimizer, CONTRACT)
    served, again, resumed = new_model(2), new_model(2), strategy_of(name)
    load_state(tmp_path / "checkpoint", served)
    load_state(tmp_path / "checkpoint", again, resumed)
    for task in range(2):
        for kept, loaded, merged in zip(look(model, task), look(again, task), look(served, task), strict=True):
            assert torch.equal(kept, loaded)
            torch.testing.assert_close(merged, kept, rtol=0, atol=1e-5)
    other = make_optimizer(again, resumed, stage_of(1), CONFIG)
    checkpoint.restore_optimizer(tmp_path / "checkpoint", other)
    assert trained_names(again, other) == trained_names(model, optimizer)
    for one, its_strategy, its_optimizer in ((model, strategy, optimizer), (again, resumed, other)):
        some_steps(one, its_strategy, its_optimizer, 1, epochs=1)
        its_strategy.after_task(one, stage_of(1), bags_of(1))
    for key, value in trunk_of(model).items():
        assert torch.equal(again.trunk.state_dict()[key], value), key
    assert resumed.report() == strategy.report()


@pytest.mark.parametrize(
    "file", ["base.safetensors", "adapters/002/adapter_model.safetensors", "memory.safetensors", "strategy.json"]
)
def test_a_damaged_file_is_said_in_one_line(file: str, tmp_path: Path) -> None:
    model, strategy = new_model(), strategy_of("inflora")
    learn(model, strategy, 0, epochs=1)
    begin(model, strategy, 1)
    save_state(tmp_path, model, strategy)
    (tmp_path / file).write_bytes(b"damaged")
    with pytest.raises(RunError, match=rf"{file}: cannot be read .*; restore the run from a copy"):
        load_state(tmp_path, new_model(2), strategy_of("inflora"))


def test_a_damaged_optimizer_is_said_in_one_line(tmp_path: Path) -> None:
    model, strategy = new_model(), strategy_of("lora")
    optimizer = begin(model, strategy, 0)
    (tmp_path / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"optimizer\.safetensors: cannot be read"):
        checkpoint.restore_optimizer(tmp_path, optimizer)


@BOTH
def test_a_finished_stage_leaves_no_adapter(name: str, tmp_path: Path) -> None:
    model, strategy = new_model(), strategy_of(name)
    for index in range(2):
        learn(model, strategy, index, epochs=1)
    save_state(tmp_path, model, strategy)
    state = {"model.safetensors", "strategy.json"} | ({"memory.safetensors"} if name == "inflora" else set())
    assert set(tree(tmp_path)) == state
    assert json.loads((tmp_path / "strategy.json").read_text()) == {"adapter": None}
    assert set(load_file(tmp_path / "model.safetensors")) == set(new_model(2).state_dict())
    again, resumed = new_model(2), strategy_of(name)
    load_state(tmp_path, again, resumed)
    for one, its_strategy in ((model, strategy), (again, resumed)):
        learn(one, its_strategy, 2, epochs=1)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@BOTH
def test_a_model_without_targets_is_refused(name: str) -> None:
    class Bare(CoMEL):
        adapter_targets = ()

    model = copy.copy(new_model(1))
    model.__class__ = Bare
    with pytest.raises(ConfigError, match=rf"strategy '{name}' adapts linear layers, but the model Bare names none"):
        strategy_of(name).before_task(model, stage_of(0), bags_of(0))


@pytest.mark.parametrize("name", ["lora", pytest.param("inflora", marks=pytest.mark.slow)])
def test_killed_in_a_run_and_started_again(name: str, toy_stream: Stream, tmp_path: Path) -> None:
    """A process killed over and over ends with the weights of one never killed, and knows both tasks."""
    settings = toy_stream.settings(
        {"name": FILES[name], "rank": RANK}, tasks=["colon", "kidney"], epochs=2, checkpoint_seconds=0
    )
    whole = comel.train(settings, tmp_path / "whole", quiet=True)
    lives = 1
    while killed(lambda: comel.train(settings, tmp_path / "run", quiet=True), at=13):
        lives += 1
        assert lives < 8
    assert lives >= 3
    for folder in ("versions", "evaluations"):
        kept, other = tree(whole / folder), tree(tmp_path / "run" / folder)
        assert {k: v for k, v in kept.items() if k.endswith((".safetensors", ".csv"))} == {
            k: v for k, v in other.items() if k.endswith((".safetensors", ".csv"))
        }
    assert Predictor.open(whole).class_names == ["colon/normal", "colon/tumour", "kidney/normal", "kidney/tumour"]
    file = FILES[name].partition(":")[0]
    comel.add_task(whole, toy_stream.manifest, toy_stream.bags, tasks=["liver"], trust=[file], quiet=True)
    assert RunDirectory(whole).versions() == [1, 2, 3]
