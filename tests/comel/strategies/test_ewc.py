"""Elastic weight consolidation: its Fisher information, its penalty, and what it holds back."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from comel.errors import RunError
from comel.models.comel import CoMEL
from comel.strategies.ewc import EWC, EWCOptions
from tests.comel.strategies.tiny import (
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    finish,
    learn,
    new_model,
    terms_of,
    trunk_of,
)


def fisher_by_hand(model: CoMEL, task: int) -> dict[str, np.ndarray]:
    """Backward passes bag by bag on a copy without dropout, squared and averaged in numpy."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    sums = {name: np.zeros(tuple(p.shape)) for name, p in model.trunk.named_parameters()}
    for bag, column in bags_of(task):
        model.zero_grad()
        own = model(bag).head_logits[0, 2 * task : 2 * task + 2]
        (own.logsumexp(dim=0) - own[column - 2 * task]).backward()
        for name, p in model.trunk.named_parameters():
            assert p.grad is not None
            sums[name] += p.grad.numpy().astype(np.float64) ** 2
    return {name: total / len(bags_of(task)) for name, total in sums.items()}


def test_fisher_is_the_mean_squared_gradient_and_decays() -> None:
    model, strategy = new_model(), EWC(EWCOptions(decay=0.3))
    learn(model, strategy, 0)
    first = fisher_by_hand(model, 0)
    assert strategy.fisher.keys() == dict(model.trunk.named_parameters()).keys()
    for name, tensor in strategy.fisher.items():
        np.testing.assert_allclose(tensor.numpy(), first[name], rtol=1e-3, atol=1e-9)
    assert sum(tensor.sum().item() for tensor in strategy.fisher.values()) > 0
    learn(model, strategy, 1)
    second = fisher_by_hand(model, 1)
    for name, tensor in strategy.fisher.items():
        np.testing.assert_allclose(tensor.numpy(), 0.3 * first[name] + second[name], rtol=1e-3, atol=1e-9)
    assert torch.equal(torch.cat([t.reshape(-1) for t in strategy.anchor.values()]), trunk_of(model))


def test_taking_fisher_changes_nothing() -> None:
    model, strategy = new_model(1), EWC()
    model.train().requires_grad_(False)
    finish(model.train(), strategy, 0)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_the_penalty_by_hand_and_zero_at_the_old_weights() -> None:
    model, strategy = new_model(), EWC(EWCOptions(strength=2.5))
    bag, column = bags_of(1)[0]
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 1)
    assert "ewc" not in terms_of(model, strategy, *bags_of(0)[0])
    finish(model, strategy, 0)
    begin(model, strategy, 1)
    assert terms_of(model, strategy, bag, column)["ewc"].item() == 0.0
    with torch.no_grad():
        for index, p in enumerate(model.trunk.parameters()):
            p.add_(0.01 * (index + 1))
    wanted = sum(
        2.5 * float((strategy.fisher[name].double() * (0.01 * (index + 1)) ** 2).sum())
        for index, (name, _) in enumerate(model.trunk.named_parameters())
    )
    assert wanted > 0
    term = terms_of(model, strategy, bag, column)["ewc"]
    assert term.item() == pytest.approx(wanted, rel=1e-4)
    weight = model.trunk.get_parameter("embed.weight")
    (gradient,) = torch.autograd.grad(term, weight)
    index = [name for name, _ in model.trunk.named_parameters()].index("embed.weight")
    torch.testing.assert_close(gradient, 2 * 2.5 * strategy.fisher["embed.weight"] * 0.01 * (index + 1), rtol=1e-3, atol=1e-9)


def test_weights_that_matter_move_less_the_stronger_it_is() -> None:
    moved = []
    for strength in (0.0, 1e2, 1e4):
        model, strategy = new_model(), EWC(EWCOptions(strength=strength))
        learn(model, strategy, 0)
        fisher, before = copy.deepcopy(strategy.fisher), copy.deepcopy(model.trunk.state_dict())
        learn(model, strategy, 1, epochs=4)
        moved.append(sum(float((fisher[name] * (p - before[name]) ** 2).sum()) for name, p in model.trunk.state_dict().items()))
    assert moved[0] > 1.3 * moved[1]
    assert moved[1] > 1.3 * moved[2]


def test_old_heads_are_frozen_and_no_old_data_kept() -> None:
    model, strategy = new_model(), EWC()
    learn(model, strategy, 0)
    optimizer = begin(model, strategy, 1)
    chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert chosen == {id(p) for p in [*model.trunk.parameters(), *model.head_parameters(1)]}
    assert strategy.old_data_bytes() == 0


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(lambda: EWC(EWCOptions(strength=50.0)), tmp_path)


def test_in_the_first_task_there_is_nothing_to_write(tmp_path: Path) -> None:
    model, strategy = new_model(1), EWC()
    strategy.save(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    strategy.load(model, tmp_path)
    assert strategy.fisher == strategy.anchor == {}
    (tmp_path / "ewc.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"ewc\.safetensors: cannot be read"):
        strategy.load(model, tmp_path)


def test_options_are_checked() -> None:
    assert (EWCOptions().strength, EWCOptions().decay) == (1.0, 0.9)
    for wrong in ({"strength": -1}, {"decay": 1.5}, {"lambda": 1}):
        with pytest.raises(ValidationError):
            EWCOptions(**wrong)
