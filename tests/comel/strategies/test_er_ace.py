"""ER-ACE: which columns the cross-entropies of new and of stored bags run over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from comel.strategies.er_ace import ERACE
from tests.comel.strategies.tiny import (
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    head_logits,
    learn,
    new_model,
    terms_of,
)


def cross_entropy_of(logits: torch.Tensor, label: int) -> float:
    row = logits.detach().double().numpy()
    return float(np.log(np.exp(row).sum()) - row[label])


@pytest.mark.parametrize("default", ["task", "seen"])
def test_new_bags_over_the_task_stored_ones_over_all_seen(default: Literal["task", "seen"]) -> None:
    model, strategy = new_model(loss_over=default), ERACE()
    learn(model, strategy, 0)
    learn(model, strategy, 1)
    begin(model, strategy, 2)
    model.eval()
    bag, column = bags_of(2)[3]
    logits = head_logits(model, 2)[3]
    for _ in range(4):
        stored = copy.deepcopy(strategy.memory).draw()[0]
        said = model(stored.batch(torch.device("cpu"))).head_logits[0]
        assert len(said) == 6
        terms = terms_of(model, strategy, bag, column)
        assert terms["ce"].item() == pytest.approx(cross_entropy_of(logits[4:], column - 4), rel=1e-4)
        assert terms["stored_ce"].item() == pytest.approx(cross_entropy_of(said, stored.column), rel=1e-4)
        assert terms["ce"].item() != pytest.approx(cross_entropy_of(logits, column), rel=1e-2)
        assert {name for name in terms if name.startswith("stored_")} == {"stored_ce", "stored_bppl", "stored_instance"}


def test_a_new_bag_leaves_the_old_heads_alone_and_a_stored_one_does_not() -> None:
    model, strategy = new_model(loss_over="seen"), ERACE()
    learn(model, strategy, 0)
    begin(model, strategy, 1)
    terms = terms_of(model.train(), strategy, *bags_of(1)[0])
    old = model.head_parameters(0)
    new = torch.autograd.grad(terms["ce"], old, allow_unused=True, retain_graph=True)
    assert all(gradient is None or not gradient.any() for gradient in new)
    stored = torch.autograd.grad(terms["stored_ce"], [*old[:1], *model.head_parameters(1)[:1]])
    assert all(gradient.any() for gradient in stored)


def test_the_first_task_replays_nothing() -> None:
    model, strategy = new_model(), ERACE()
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 1)
    assert set(terms_of(model, strategy, *bags_of(0)[0])) == {"ce", "bppl", "instance"}


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(ERACE, tmp_path)
