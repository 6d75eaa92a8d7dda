"""Learning without forgetting: its teacher, its distillation, and what it keeps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from comel.models.base import MILModel
from comel.strategies.lwf import LwF, LwFOptions
from tests.comel.strategies.tiny import (
    HEADS,
    assert_a_killed_run_ends_alike,
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    finish,
    head_logits,
    learn,
    new_model,
    stage_of,
    terms_of,
)


def divergence(said: np.ndarray, says: np.ndarray, temperature: float) -> float:
    """KL of two rows of logits, in float64."""
    p, q = (np.exp(row / temperature) / np.exp(row / temperature).sum() for row in (said, says))
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("temperature", [2.0, 0.7])
def test_the_distillation_by_hand(temperature: float) -> None:
    model, strategy = new_model(bag_evidence=False), LwF(LwFOptions(alpha=1.5, temperature=temperature))
    bag, column = bags_of(1)[1]
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 1)
    assert set(terms_of(model, strategy, *bags_of(0)[0])) == {"ce", "bppl", "instance"}
    finish(model, strategy, 0)
    begin(model, strategy, 1)
    before = head_logits(model, 1)[1].double().numpy()
    assert terms_of(model, strategy, bag, column)["distillation"].item() == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05)
        model.head_parameters(0)[0][0] += 0.5
    now = head_logits(model, 1)[1].double().numpy()
    assert now.shape == (4,)
    wanted = 1.5 * divergence(before[:2], now[:2], temperature)
    assert wanted > 1e-4
    assert terms_of(model, strategy, bag, column)["distillation"].item() == pytest.approx(wanted, rel=1e-3)


def test_the_new_head_takes_no_gradient_from_it() -> None:
    model, strategy = new_model(), LwF()
    learn(model, strategy, 0)
    begin(model, strategy, 1)
    model.train()
    term = terms_of(model, strategy, *bags_of(1)[0])["distillation"]
    of_head = torch.autograd.grad(term, model.head_parameters(1), allow_unused=True, retain_graph=True)
    assert all(gradient is None or not gradient.any() for gradient in of_head)
    (of_trunk,) = torch.autograd.grad(term, [model.trunk.get_parameter("embed.weight")])
    assert of_trunk.any()


def test_the_teacher_never_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    model, strategy = new_model(), LwF()
    learn(model, strategy, 0)
    assert strategy.teacher is None
    optimizer = begin(model, strategy, 1)
    teacher: MILModel = strategy.teacher  # type: ignore[assignment]
    before = copy.deepcopy(teacher.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    epochs_of(model, strategy, 1, optimizer, 2)
    assert model.training
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not torch.equal(model.trunk.get_parameter("embed.weight"), before["trunk.embed.weight"])
    finish(model, strategy, 1)
    assert strategy.teacher is None
    assert strategy.learned == 4
    begin(model, strategy, 2)
    assert strategy.teacher is not None
    assert torch.equal(strategy.teacher.trunk.get_parameter("embed.weight"), model.trunk.get_parameter("embed.weight"))


def test_the_old_columns_move_less_on_new_bags_the_more_it_weighs() -> None:
    moved = []
    for alpha in (0.0, 30.0):
        model, strategy = new_model(), LwF(LwFOptions(alpha=alpha))
        learn(model, strategy, 0, epochs=4)
        optimizer = begin(model, strategy, 1)
        before = head_logits(model, 1)[:, :2].log_softmax(dim=1)
        epochs_of(model, strategy, 1, optimizer, 6)
        moved.append((head_logits(model, 1)[:, :2].log_softmax(dim=1) - before).abs().mean().item())
    assert moved[0] > 1.3 * moved[1]


def test_with_one_head_for_all_domains_all_columns_are_old() -> None:
    model, strategy = new_model(1), LwF()
    stages: list[Any] = [stage_of(0), stage_of(1)]
    strategy.before_task(model, stages[0], bags_of(0))
    assert strategy.teacher is None
    strategy.after_task(model, stages[0], bags_of(0))
    strategy.before_task(model, stages[1], bags_of(1))
    with torch.no_grad():
        model.head_parameters(0)[1][1] += 3
    (said,), (says,) = (one.eval()(bags_of(1)[0][0]).head_logits.detach() for one in (strategy.teacher, model))  # type: ignore[union-attr]
    bag, _ = bags_of(1)[0]
    term = terms_of(model, strategy, bag, 0)["distillation"].item()
    assert term == pytest.approx(divergence(said.double().numpy(), says.double().numpy(), 2.0), rel=1e-4)


def test_only_the_trunk_and_the_new_head_train() -> None:
    model, strategy = new_model(), LwF()
    learn(model, strategy, 0)
    optimizer = begin(model, strategy, 1)
    chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert chosen == {id(p) for p in [*model.trunk.parameters(), *model.head_parameters(1)]}
    assert strategy.old_data_bytes() == 0


def test_a_folder_brings_it_back_and_its_teacher_inside_a_task(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(LwF, tmp_path)
    assert not (tmp_path / "between" / "teacher.safetensors").exists()
    assert (tmp_path / "inside" / "teacher.safetensors").exists()


def test_a_loaded_teacher_is_the_one_that_was_saved(tmp_path: Path) -> None:
    model, strategy = new_model(), LwF()
    learn(model, strategy, 0)
    epochs_of(model, strategy, 1, begin(model, strategy, 1), 1)
    strategy.save(model, tmp_path)
    again, resumed = copy.deepcopy(model), LwF()
    resumed.load(again, tmp_path)
    assert resumed.teacher is not None
    assert strategy.teacher is not None
    for name, value in strategy.teacher.state_dict().items():
        assert torch.equal(value, resumed.teacher.state_dict()[name])
    assert not torch.equal(model.trunk.get_parameter("embed.weight"), strategy.teacher.trunk.get_parameter("embed.weight"))
    assert not any(p.requires_grad for p in resumed.teacher.parameters())
    assert not resumed.teacher.training
    again.add_head(HEADS[2])
    assert len(resumed.teacher.classes) == 4


def test_options_are_checked() -> None:
    assert (LwFOptions().alpha, LwFOptions().temperature) == (1.0, 2.0)
    for wrong in ({"temperature": 0}, {"alpha": -1}, {"t": 2}):
        with pytest.raises(ValidationError):
            LwFOptions(**wrong)


@pytest.mark.slow
def test_killed_anywhere_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run over files, killed inside the second stage, and a task added to it; as if never killed."""
    assert_a_killed_run_ends_alike({"name": "lwf", "alpha": 5.0}, "comel.strategies.lwf:LwF", tmp_path, monkeypatch)
    assert list(tmp_path.glob("*/versions/*/teacher.safetensors")) == []
