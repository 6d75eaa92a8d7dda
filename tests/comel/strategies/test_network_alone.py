"""Strategies distil and weigh the network that gradients train, and not what is fitted to a task's bags beside it."""

from __future__ import annotations

import torch

from comel.strategies.ewc import fisher_diagonal
from comel.strategies.lwf import LwF
from tests.comel.strategies.tiny import bags_of, begin, finish, learn, new_model, terms_of


def test_the_fisher_information_is_of_the_network() -> None:
    with_context, without = new_model(context="full"), new_model()
    for model in (with_context, without):
        learn(model, LwF(), 0)
    one, other = (fisher_diagonal(model, bags_of(0)) for model in (with_context, without))
    assert one.keys() == other.keys()
    assert sum(float(values.sum()) for values in one.values()) > 0
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], rtol=0, atol=0)


def test_the_teacher_says_what_the_network_says() -> None:
    said = []
    for context in ("full", "none"):
        model, strategy = new_model(context=context), LwF()
        learn(model, strategy, 0)
        begin(model, strategy, 1)
        (bag, column), *_ = bags_of(1)
        torch.manual_seed(3)
        model.train()
        said.append(terms_of(model, strategy, bag, column)["distillation"])
        finish(model, strategy, 1)
    torch.testing.assert_close(said[0], said[1], rtol=0, atol=0)


def test_within_network_no_context_speaks() -> None:
    model, strategy = new_model(context="full"), LwF()
    learn(model, strategy, 0)
    (bag, _), *_ = bags_of(0)
    with torch.no_grad():
        outside = model.eval()(bag).head_logits
        with model.network():
            inside = model(bag).head_logits
        model.context = None
        torch.testing.assert_close(model(bag).head_logits, inside, rtol=0, atol=0)
    assert not torch.equal(outside, inside)
