"""Experience replay: the loss of a stored bag beside the new one's."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from comel.strategies.er import ER
from comel.strategies.rehearsal import RehearsalOptions
from tests.comel.strategies.tiny import (
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    finish,
    head_logits,
    learn,
    new_model,
    terms_of,
)


def test_the_first_task_replays_nothing() -> None:
    model, strategy = new_model(), ER()
    epochs_of(model, strategy, 0, begin(model, strategy, 0), 1)
    assert set(terms_of(model, strategy, *bags_of(0)[0])) == {"ce", "bppl", "instance"}
    assert strategy.memory.drawn == 0


def test_the_stored_bags_terms_are_the_models_whole_loss() -> None:
    model, strategy = new_model(), ER()
    learn(model, strategy, 0)
    begin(model, strategy, 1)
    model.eval()
    bag, column = bags_of(1)[3]
    next_draw = copy.deepcopy(strategy.memory).draw()[0]
    before, old_column = next(
        pair for pair in bags_of(0) if torch.equal(pair[0].features[0], next_draw.features)
    )  # the very bag of the first task
    terms = terms_of(model, strategy, bag, column)
    wanted = model.loss(model(bag), torch.tensor([column]))
    wanted |= {f"stored_{name}": value for name, value in model.loss(model(before), torch.tensor([old_column])).items()}
    assert terms.keys() == wanted.keys()
    assert len(terms) == 6
    for name, value in terms.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-7)


def test_the_old_head_learns_on() -> None:
    model, strategy = new_model(), ER()
    learn(model, strategy, 0)
    before = [p.detach().clone() for p in model.head_parameters(0)]
    learn(model, strategy, 1)
    assert all(not torch.equal(p, old) for p, old in zip(model.head_parameters(0), before, strict=True))


def test_it_forgets_less_than_without_stored_bags() -> None:
    lost = []
    for kept in (True, False):
        model, strategy = new_model(recognition="none", loss_over="seen"), ER(RehearsalOptions())
        learn(model, strategy, 0, epochs=8)
        if not kept:
            strategy.memory.bags.clear()
        learn(model, strategy, 1, epochs=8)
        labels = torch.tensor([column for _, column in bags_of(0)])
        lost.append(torch.nn.functional.cross_entropy(head_logits(model, 0), labels).item())
    assert lost[1] > 1.3 * lost[0]


def test_bags_of_a_finished_task_join_those_of_the_one_before() -> None:
    model, strategy = new_model(), ER()
    for index in range(2):
        epochs_of(model, strategy, index, begin(model, strategy, index), 1)
        columns = {bag.column for bag in strategy.memory.bags}
        assert columns == set(range(2 * index))
        finish(model, strategy, index)
    assert [bag.column for bag in strategy.memory.bags] == [column for task in (0, 1) for _, column in bags_of(task)]


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(lambda: ER(RehearsalOptions(bags=7, max_instances=6)), tmp_path)
