"""A-GEM: the projection, and the gradient it is made with."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from comel.models.base import BagBatch
from comel.models.comel import CoMEL
from comel.strategies.agem import AGEM, AGEMOptions, project
from comel.training.loop import total
from tests.comel.strategies.tiny import (
    assert_goes_on_as_if_never_stopped,
    bags_of,
    begin,
    epochs_of,
    learn,
    new_model,
    terms_of,
)


def flat(tensors: list[Tensor | None], like: list[nn.Parameter]) -> np.ndarray:
    """Gradients as one row in float64, 0 where there is none."""
    return np.concatenate(
        [
            (np.zeros(p.numel()) if t is None else t.detach().double().numpy().ravel())
            for t, p in zip(tensors, like, strict=True)
        ]
    )


@given(seed=st.integers(0, 10_000), missing=st.booleans(), scale=st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_projection(seed: int, missing: bool, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,))]
    for p in parameters:
        p.grad = scale * torch.randn(p.shape, generator=generator)
    if missing:
        parameters[1].grad = None
    reference = [torch.randn(p.shape, generator=generator) for p in parameters]
    before = flat([p.grad for p in parameters], parameters)
    r = flat(list(reference), parameters)
    changed = project(parameters, reference)
    after = flat([p.grad for p in parameters], parameters)
    assert changed == (before @ r < 0)
    assert after @ r >= -1e-6 * np.linalg.norm(before) * np.linalg.norm(r)
    if changed:
        np.testing.assert_allclose(after, before - (before @ r) / (r @ r) * r, rtol=1e-4, atol=1e-5 * scale)
    else:
        assert (after == before).all()
        assert (parameters[1].grad is None) == missing


def test_a_reference_of_zeros_or_no_gradient_changes_nothing() -> None:
    p = nn.Parameter(torch.zeros(3))
    assert not project([p], [torch.ones(3)])
    assert p.grad is None
    p.grad = torch.ones(3)
    assert not project([p], [torch.zeros(3)])
    assert torch.equal(p.grad, torch.ones(3))


def gradients_of(model: CoMEL, bags: list[tuple[BagBatch, int]]) -> np.ndarray:
    """The mean gradient of whole losses by plain backward passes on copies."""
    rows = []
    for bag, column in bags:
        twin = copy.deepcopy(model)
        twin.zero_grad()
        total(twin.loss(twin(bag), torch.tensor([column]))).backward()
        rows.append(flat([p.grad for p in twin.parameters()], list(twin.parameters())))
    gradient: np.ndarray = np.mean(rows, axis=0)
    return gradient


@pytest.mark.parametrize("sample", [1, 3, 50])
def test_the_reference_is_the_mean_gradient_of_stored_bags(sample: int) -> None:
    model, strategy = new_model(), AGEM(AGEMOptions(sample=sample))
    learn(model, strategy, 0)
    begin(model, strategy, 1)
    model.eval()
    drawn = copy.deepcopy(strategy.memory).draw(sample)
    assert len(drawn) == min(sample, 6)
    parameters = list(model.parameters())
    reference = strategy.reference(model, parameters)
    assert reference is not None
    wanted = gradients_of(model, [(bag.batch(torch.device("cpu")), bag.column) for bag in drawn])
    np.testing.assert_allclose(flat(list(reference), parameters), wanted, rtol=1e-3, atol=1e-6)
    assert np.abs(wanted).max() > 1e-3


def test_a_bag_that_contradicts_the_stored_one_is_projected() -> None:
    model, strategy = new_model(), AGEM()
    learn(model, strategy, 0)
    begin(model, strategy, 1)
    model.eval()
    bag, column = bags_of(0)[1]
    strategy.memory.bags = [one for one in strategy.memory.bags if torch.equal(one.features, bag.features[0])]
    assert len(strategy.memory.bags) == 1
    parameters = list(model.parameters())
    r = gradients_of(model, [(bag, column)])
    for label, against in ((column, False), (1 - column, True)):
        model.zero_grad()
        total(terms_of(model, strategy, bag, label)).backward()
        before = flat([p.grad for p in parameters], parameters)
        strategy.after_backward(model)
        after = flat([p.grad for p in parameters], parameters)
        assert (before @ r < 0) == against
        assert after @ r >= -1e-6 * np.linalg.norm(before) * np.linalg.norm(r)
        assert (after == before).all() != against
        if against:
            np.testing.assert_allclose(after, before - (before @ r) / (r @ r) * r, rtol=1e-3, atol=1e-5)


def test_the_first_task_is_plain_training() -> None:
    model, strategy = new_model(), AGEM()
    optimizer = begin(model, strategy, 0)
    total(terms_of(model, strategy, *bags_of(0)[0])).backward()
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    strategy.after_backward(model)
    for p, old in zip(model.parameters(), before, strict=True):
        assert (p.grad is None and old is None) or (p.grad is not None and old is not None and torch.equal(p.grad, old))
    epochs_of(model, strategy, 0, optimizer, 1)
    assert strategy.memory.drawn == 0


def test_a_folder_brings_it_back(tmp_path: Path) -> None:
    assert_goes_on_as_if_never_stopped(lambda: AGEM(AGEMOptions(bags=7, sample=2)), tmp_path)


def test_options_are_checked() -> None:
    assert (AGEMOptions().sample, AGEMOptions().bags) == (1, 30)
    for wrong in ({"sample": 0}, {"margin": 0.5}):
        with pytest.raises(ValidationError):
            AGEMOptions(**wrong)
