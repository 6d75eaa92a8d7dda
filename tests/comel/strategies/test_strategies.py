"""Strategies on a tiny CoMEL and a toy stream: what trains, what drifts, what a folder brings back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from comel.cohort.classes import Head
from comel.cohort.tasks import TaskData
from comel.errors import CapacityError, ConfigError, RunError
from comel.models.base import BagBatch
from comel.models.comel import CoMEL, CoMELOptions
from comel.runs.config import TrainerConfig
from comel.runs.weights import load_state, save_state
from comel.strategies import STRATEGIES, strategy_class
from comel.strategies.base import Stage, Strategy
from comel.strategies.linears import adapted_linears, input_grams
from comel.strategies.owlora import OWLora, OWLoraOptions
from comel.training.loop import begin_stage, make_optimizer, total

FEATURES, DIM = 20, 32
HEADS = tuple(Head(f"task{index}", ("normal", "tumour"), "normal") for index in range(4))
TASKS = tuple(TaskData(head.name, head, (), (), ()) for head in HEADS)
OWLORA = {"rank": 4, "tasks": 4, "energy": 0.99}
CONFIG = TrainerConfig(lr=3e-3, weight_decay=1e-5)


def bags_of(task: int, number: int = 8) -> list[tuple[BagBatch, int]]:
    """Bags of a task: tissue of its own colour, in half of them some instances of a tumour of its own."""
    generator = torch.Generator().manual_seed(100 + task)
    spanned = torch.randn(3, FEATURES, generator=generator)  # a task's tissue varies along few directions
    colour, tumour = torch.randn(FEATURES, generator=generator), torch.randn(FEATURES, generator=generator) * 1.5
    bags = []
    for index in range(number):
        x = colour + torch.randn(12, 3, generator=generator) @ spanned
        label = index % 2
        x[:4] += label * tumour
        bags.append((BagBatch(x.unsqueeze(0)), 2 * task + label))
    return bags


def new_model(heads: int = 0) -> CoMEL:
    torch.manual_seed(0)
    options = CoMELOptions(dim=DIM, blocks=1, num_heads=4, attention_hidden=16, region_size=3, mlp_ratio=2)
    return CoMEL(FEATURES, options, HEADS[:heads])


def new_strategy(name: str, **options: Any) -> Strategy:
    kind = strategy_class(name)
    strategy: Strategy = kind(kind.Options(**{**(OWLORA if name == "owlora" else {}), **options}))
    return strategy


def stage_of(index: int) -> Stage:
    return Stage(index, (TASKS[index],), (index,))


def begin(model: CoMEL, strategy: Strategy, index: int) -> torch.optim.Adam:
    """Give the model the stage's head, and an optimizer over what the stage trains."""
    torch.manual_seed(index)
    model.add_head(HEADS[index])
    begin_stage(model, strategy, stage_of(index), bags_of(index), CONFIG)  # type: ignore[arg-type]
    return make_optimizer(model, strategy, stage_of(index), CONFIG)


def learn(model: CoMEL, strategy: Strategy, index: int, epochs: int = 6) -> None:
    """The trainer's loop over a toy task, at a constant learning rate."""
    optimizer = begin(model, strategy, index)
    for group in optimizer.param_groups:
        group["lr"] = CONFIG.lr * group["lr_scale"]
    torch.manual_seed(1000 + index)
    model.train()
    for _ in range(epochs):
        for bag, column in bags_of(index):
            loss = total(strategy.loss(model, bag, model(bag), torch.tensor([column])))
            optimizer.zero_grad()
            loss.backward()
            strategy.after_backward(model)
            optimizer.step()
            strategy.after_step(model)
        model.end_epoch()
    model.eval()
    model.end_task(bags_of(index))
    strategy.after_task(model, stage_of(index), bags_of(index))


@torch.no_grad()
def look(model: CoMEL, task: int = 0) -> tuple[Tensor, Tensor]:
    """Bag features and head logits of a task's bags."""
    outputs = [model.eval()(bag) for bag, _ in bags_of(task)]
    return torch.cat([o.bag_features for o in outputs]), torch.cat([o.head_logits for o in outputs])


def trained_names(model: CoMEL, optimizer: torch.optim.Optimizer) -> set[str]:
    """Names of the parameters in the optimizer, which must be those that require a gradient."""
    chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    return names


def head_names(model: CoMEL, index: int) -> set[str]:
    """Parameters of one head, by their names."""
    folders = (f"bag_heads.{index}.", f"instance_heads.{index}.")
    names = {name for name, _ in model.named_parameters() if name.startswith(folders)}
    assert len(names) > 2
    return names


def test_finetune_trains_the_trunk_and_the_newest_head() -> None:
    model, strategy = new_model(), new_strategy("finetune")
    for index in range(2):
        names = trained_names(model, begin(model, strategy, index))
        assert names == {f"trunk.{name}" for name, _ in model.trunk.named_parameters()} | head_names(model, index)


def test_joint_is_one_stage_that_trains_everything() -> None:
    strategy, model = new_strategy("joint"), new_model(3)
    assert list(strategy.stream(TASKS[:3])) == [TASKS[:3]]
    assert not strategy.continual
    optimizer = make_optimizer(model, strategy, Stage(0, TASKS[:3], (0, 1, 2)), CONFIG)
    assert trained_names(model, optimizer) == {name for name, _ in model.named_parameters()}
    # in a domain-incremental run all tasks share the one head
    shared = make_optimizer(new_model(1), strategy, Stage(0, TASKS[:3], (0, 0, 0)), CONFIG)
    assert len(shared.param_groups[1]["params"]) == len(new_model(1).head_parameters(0))


@pytest.mark.parametrize("name", ["finetune", "owlora"])
def test_a_continual_stream_is_one_task_a_stage(name: str) -> None:
    strategy = new_strategy(name)
    assert strategy.continual
    assert list(strategy.stream(TASKS)) == [(task,) for task in TASKS]


@pytest.mark.parametrize("basis", ["features", "weights"])
def test_owlora_trains_the_newest_adapter_and_head_alone(basis: str) -> None:
    model, strategy = new_model(), new_strategy("owlora", basis=basis)
    names = trained_names(model, begin(model, strategy, 0))
    assert names == {f"trunk.{name}" for name, _ in model.trunk.named_parameters()} | head_names(model, 0)
    strategy.after_task(model, stage_of(0), bags_of(0))
    layers = ["embed", "blocks.0.fc1", "blocks.0.fc2", "pool.v", *(f"blocks.0.attention.{n}" for n in ("q", "k", "v", "proj"))]
    for index, adapter in ((1, "002-task1"), (2, "003-task2")):
        optimizer = begin(model, strategy, index)
        adapters = {f"trunk.{layer}.owlora_{part}.{adapter}" for layer in layers for part in "ABs"}
        assert trained_names(model, optimizer) == adapters | head_names(model, index)
        scales = [group["lr_scale"] for group in optimizer.param_groups]
        assert scales == [5.0, 30.0, model.head_lr_scale]
        assert all(p.ndim == 1 for p in optimizer.param_groups[1]["params"])
        strategy.after_task(model, stage_of(index), bags_of(index))


@pytest.mark.parametrize("basis", ["features", "weights"])
def test_owlora_changes_nothing_that_is_frozen(basis: str) -> None:
    model, strategy = new_model(), new_strategy("owlora", basis=basis)
    learn(model, strategy, 0, epochs=2)
    before = copy.deepcopy(model.state_dict())
    learn(model, strategy, 1, epochs=2)
    after = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    kept = [name for name, _ in new_model(1).named_parameters()]
    for name in kept:
        assert torch.equal(before[name], after[name]), name


def test_owlora_keeps_old_features_where_finetuning_loses_them() -> None:
    drift = {}
    for name, options in (("finetune", {}), ("owlora", {"basis": "features"}), ("weights", {"basis": "weights"})):
        model, strategy = new_model(), new_strategy("owlora" if options else name, **options)
        learn(model, strategy, 0)
        before, new_before = look(model)[0], look(model, 1)[0]
        learn(model, strategy, 1)
        drift[name] = ((look(model)[0] - before).norm() / before.norm()).item()
        moved = ((look(model, 1)[0] - new_before).norm() / new_before.norm()).item()
        assert moved > 0.05, name  # it has learned something of the new task
    assert drift["finetune"] > 4 * drift["owlora"]
    assert drift["weights"] > drift["owlora"]


def test_owlora_leaves_a_declared_stream_room_and_says_what_is_left() -> None:
    model, strategy = new_model(), new_strategy("owlora", energy=1.0)
    assert isinstance(strategy, OWLora)
    assert strategy.report() == {}
    for index in range(4):
        learn(model, strategy, index, epochs=1)
        left = 3 - index
        report = strategy.report()
        assert report["adapters_left"] == left
        assert ("warning" in report) == (left < 2)
        for name, layer in report["capacity"].items():
            assert layer["free"] >= left * 4, name
            assert layer["in"] == (FEATURES if name == "embed" else layer["in"])
            # what is reported after a task is what the next one will find
            basis = strategy.bases[name]
            assert layer["free"] == len(basis) - basis.shape[1]
            torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), rtol=0, atol=1e-9)
    with pytest.raises(CapacityError, match=r"stage 5 is beyond the 4 tasks"):
        strategy.before_task(model, Stage(4, (TASKS[0],), (0,)), bags_of(0))


@pytest.mark.parametrize("basis", ["features", "weights"])
def test_owlora_lets_every_declared_task_in(basis: str) -> None:
    # three adapters of rank 5 and one of 16: the narrowest layer has 16 directions, and 4 x 5 would not fit
    model, strategy = new_model(), new_strategy("owlora", basis=basis, rank=5, energy=1.0)
    for index in range(4):
        learn(model, strategy, index, epochs=1)
    assert isinstance(strategy, OWLora)
    assert len(strategy.adapters) == 3
    if basis == "weights":  # the first task needs no adapter: room is kept for three, the rest is protected
        assert strategy.capacity()["embed"]["protected"] == FEATURES - 3 * 5


def test_owlora_without_room_is_an_error_before_training() -> None:
    strategy = new_strategy("owlora", rank=6)
    with pytest.raises(CapacityError, match=r"pool\.v has 16 directions.* 3 .*rank 6"):
        begin(new_model(), strategy, 0)


def test_input_grams_by_hand() -> None:
    model, bags = new_model(1), bags_of(0, 3)
    model.train()
    layers = {
        name: layer
        for name, layer in model.trunk.named_modules()
        if isinstance(layer, nn.Linear) and name in ("embed", "pool.v")
    }
    grams = input_grams(model, layers, bags)
    assert model.training
    x = torch.stack([bag.features[0] for bag, _ in bags]).double()
    torch.testing.assert_close(grams["embed"], sum(rows.T @ rows / 12 for rows in x), rtol=1e-5, atol=1e-5)
    h = torch.stack([model.eval()(bag).instance_features[0] for bag, _ in bags]).detach().double()
    torch.testing.assert_close(grams["pool.v"], sum(rows.T @ rows / 12 for rows in h), rtol=1e-4, atol=1e-4)
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_a_bag_weighs_the_same_in_grams_however_many_slices_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, bags = new_model(1), bags_of(0, 3)
    layers = adapted_linears(model)
    assert any(name.endswith("fc1") for name in layers)
    whole = input_grams(model, layers, bags)
    monkeypatch.setattr("comel.nn.block._ROWS_AT_ONCE", 5)
    for name, gram in input_grams(model, layers, bags).items():
        torch.testing.assert_close(gram, whole[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("file", ["base.safetensors", "adapters/*/adapter_model.safetensors", "bases.safetensors"])
def test_a_damaged_file_of_owlora_is_said_in_one_line(file: str, tmp_path: Path) -> None:
    model, strategy = new_model(), new_strategy("owlora")
    for index in range(2):
        learn(model, strategy, index, epochs=1)
    save_state(tmp_path, model, strategy)
    (path,) = tmp_path.glob(file)
    path.write_bytes(b"damaged")
    with pytest.raises(RunError, match=rf"{path}: cannot be read"):
        load_state(tmp_path, new_model(2), new_strategy("owlora"))


STREAMS = [("finetune", {}), ("joint", {}), ("owlora", {"basis": "features"}), ("owlora", {"basis": "weights"})]


@pytest.mark.parametrize(("name", "options"), STREAMS, ids=lambda value: str(value))
def test_a_folder_brings_everything_back(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, strategy = new_model(), new_strategy(name, **options)
    for index in range(2):
        learn(model, strategy, index, epochs=2)
    save_state(tmp_path, model, strategy)
    served = new_model(2)
    load_state(tmp_path, served)  # inference: merged weights alone
    assert set(served.state_dict()) == set(new_model(2).state_dict())
    again, resumed = new_model(2), new_strategy(name, **options)
    load_state(tmp_path, again, resumed)
    for task in range(2):
        for kept, loaded, merged in zip(look(model, task), look(again, task), look(served, task), strict=True):
            assert torch.equal(kept, loaded)
            torch.testing.assert_close(kept, merged, rtol=0, atol=1e-5)
    assert resumed.report() == strategy.report()
    # what is learned after loading is what would have been learned without it
    for one, its_strategy in ((model, strategy), (again, resumed)):
        learn(one, its_strategy, 2, epochs=2)
    for task in range(3):
        for kept, loaded in zip(look(model, task), look(again, task), strict=True):
            torch.testing.assert_close(kept, loaded, rtol=0, atol=1e-6)
    assert again.tau2.item() == pytest.approx(model.tau2.item())


def test_strategies_by_name() -> None:
    assert set(STRATEGIES) >= {"finetune", "joint", "owlora"}
    with pytest.raises(ConfigError, match="did you mean 'owlora'"):
        strategy_class("owlra")
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        OWLoraOptions(tasks=1)
