"""A tiny CoMEL, three toy tasks, and the trainer's loop over them without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from comel.cohort.classes import Head
from comel.cohort.tasks import TaskData
from comel.models.base import BagBatch
from comel.models.comel import CoMEL, CoMELOptions
from comel.runs.config import TrainerConfig
from comel.runs.weights import load_state, save_state
from comel.strategies.base import Stage, Strategy
from comel.training.loop import begin_stage, make_optimizer, total
from tests.comel.toys import killed, tree, write_stream

FEATURES = 12
HEADS = tuple(Head(f"task{index}", ("normal", "tumour"), "normal") for index in range(4))
TASKS = tuple(TaskData(head.name, head, (), (), ()) for head in HEADS)
CONFIG = TrainerConfig(lr=3e-3, weight_decay=1e-5)


def bags_of(task: int, number: int = 6) -> list[tuple[BagBatch, int]]:
    """Bags of a task on a grid five tiles wide; every second one is a tumour."""
    generator = torch.Generator().manual_seed(100 + task)
    colour, tumour = torch.randn(2, FEATURES, generator=generator) * 1.5
    bags = []
    for index in range(number):
        size, label = 9 + index, index % 2
        x = colour + torch.randn(size, FEATURES, generator=generator)
        x[:3] += label * tumour
        place = torch.stack([torch.arange(size) % 5, torch.arange(size) // 5], dim=1) * 256
        bags.append((BagBatch(x.unsqueeze(0), place.unsqueeze(0)), 2 * task + label))
    return bags


def new_model(heads: int = 0, **options: Any) -> CoMEL:
    """Without context, which no strategy trains."""
    torch.manual_seed(0)
    settings = {
        "context": "none",
        "dim": 16,
        "blocks": 1,
        "num_heads": 2,
        "attention_hidden": 8,
        "region_size": 3,
        "mlp_ratio": 1,
        **options,
    }
    return CoMEL(FEATURES, CoMELOptions(**settings), HEADS[:heads])


def stage_of(index: int) -> Stage:
    return Stage(index, (TASKS[index],), (index,))


def begin(model: CoMEL, strategy: Strategy, index: int, config: TrainerConfig = CONFIG) -> torch.optim.Adam:
    """Give the model the stage's head, and an optimizer over what the stage trains."""
    torch.manual_seed(index)
    model.add_head(HEADS[index])
    begin_stage(model, strategy, stage_of(index), bags_of(index), config)  # type: ignore[arg-type]
    return make_optimizer(model, strategy, stage_of(index), config)


def terms_of(model: CoMEL, strategy: Strategy, bag: BagBatch, column: int) -> dict[str, Tensor]:
    return strategy.loss(model, bag, model(bag), torch.tensor([column]))


def epochs_of(model: CoMEL, strategy: Strategy, index: int, optimizer: torch.optim.Adam, epochs: int) -> None:
    """Pass a task's bags so many times, at a constant learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = CONFIG.lr * group["lr_scale"]
    for epoch in range(epochs):
        torch.manual_seed(1000 + 100 * index + epoch)
        model.train()
        for bag, column in bags_of(index):
            loss = total(terms_of(model, strategy, bag, column))
            optimizer.zero_grad()
            loss.backward()
            strategy.after_backward(model)
            optimizer.step()
            strategy.after_step(model)
        model.end_epoch()


def finish(model: CoMEL, strategy: Strategy, index: int) -> None:
    model.eval()
    model.end_task(bags_of(index))
    strategy.after_task(model, stage_of(index), bags_of(index))


def learn(model: CoMEL, strategy: Strategy, index: int, epochs: int = 2) -> None:
    """A whole stage."""
    epochs_of(model, strategy, index, begin(model, strategy, index), epochs)
    finish(model, strategy, index)


@torch.no_grad()
def head_logits(model: CoMEL, task: int) -> Tensor:
    """Head logits of a task's bags, (bags, C)."""
    return torch.cat([model.eval()(bag).head_logits for bag, _ in bags_of(task)])


def trunk_of(model: CoMEL) -> Tensor:
    """The trunk's weights in one row."""
    return torch.cat([p.detach().reshape(-1) for p in model.trunk.parameters()])


def assert_goes_on_as_if_never_stopped(fresh: Any, folder: Path) -> None:
    """Two stages, then written and read, once between tasks and once inside the third: the same to the last bit.

    Args:
        fresh: makes the strategy in its first state.
    """
    model, strategy = new_model(), fresh()
    learn(model, strategy, 0)
    learn(model, strategy, 1)
    save_state(_made(folder / "between"), model, strategy)
    again, resumed = new_model(2), fresh()
    load_state(folder / "between", again, resumed)
    assert resumed.old_data_bytes() == strategy.old_data_bytes()
    bag, column = bags_of(2)[0]
    for one, its in ((model, strategy), (again, resumed)):
        epochs_of(one, its, 2, begin(one, its, 2), 1)
    assert_equal_states(model, again)
    # inside a stage: a new optimizer on either side, since its state is not the strategy's
    save_state(_made(folder / "inside"), model, strategy)
    third, its_third = new_model(3), fresh()
    load_state(folder / "inside", third, its_third)
    terms = []
    for one, its in ((model, strategy), (third, its_third)):
        optimizer = make_optimizer(one, its, stage_of(2), CONFIG)
        torch.manual_seed(9)
        terms.append({name: term.item() for name, term in terms_of(one.train(), its, bag, column).items()})
        epochs_of(one, its, 2, optimizer, 1)
    assert terms[0] == terms[1], terms
    assert {"ce", "bppl", "instance"} <= set(terms[0])
    assert_equal_states(model, third)


def assert_a_killed_run_ends_alike(strategy: dict[str, Any], place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks from files, killed before renames in the second one, gone on with, and a third task added."""
    import comel
    from comel.strategies import STRATEGIES

    monkeypatch.setitem(STRATEGIES, strategy["name"], place)
    stream = write_stream(folder / "stream", ("colon", "kidney"), slides=8)
    later = write_stream(folder / "later", ("liver",), slides=8)
    settings = stream.settings(strategy, epochs=3, checkpoint_seconds=0)
    renames = killed(lambda: comel.train(settings, folder / "counted", quiet=True))
    (folder / "counted").rename(folder / "whole")
    runs = [folder / "whole"]
    for at in (renames // 2 + 6, renames - 12):
        run = folder / f"killed-{at}"
        assert killed(lambda run=run: comel.train(settings, run, quiet=True), at=at) == 1  # type: ignore[misc]
        assert [path.name for path in (run / "versions").iterdir() if path.name.isdigit()] == ["001"]
        comel.train(settings, run, quiet=True)
        runs.append(run)
    for run in runs:
        comel.add_task(run, later.manifest, later.bags, quiet=True)
    states = [_state_files(run) for run in runs]
    assert {name[:3] for name in states[0]} == {"001", "002", "003"}
    assert states[0] == states[1] == states[2]


def _state_files(run: Path) -> dict[str, bytes]:
    """What the versions hold, but ``model.json`` and the checksums, which differ by the date."""
    return {
        name: content for name, content in tree(run / "versions").items() if not name.endswith(("model.json", "checksums.json"))
    }


def assert_equal_states(one: CoMEL, other: CoMEL) -> None:
    mine, its = one.state_dict(), other.state_dict()
    assert mine.keys() == its.keys()
    for name in mine:
        assert torch.equal(mine[name], its[name]), name


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
