"""CLAM's clustering of instances, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from comel.models.clam import CLAMOptions, instance_term
from tests.comel.models.zoo import BREAST, COLON, LUNG, array, bag, cross_entropy, linear, make


def svm(scores: np.ndarray, target: int) -> float:
    """Smooth top-1 SVM with margin and temperature 1: log sum_j exp(s_j - s_right + [j is wrong])."""
    return math.log(sum(math.exp(s - scores[target] + (j != target)) for j, s in enumerate(scores)))


def term(count: int, own: bool, loss: str = "svm", k_sample: int = 8) -> tuple[float, float]:
    """What :func:`instance_term` gives, and what it should."""
    generator = torch.Generator().manual_seed(count)
    h = torch.randn(count, 5, dtype=torch.float64, generator=generator)
    attention = torch.softmax(torch.randn(count, dtype=torch.float64, generator=generator), dim=0)
    classifier = nn.Linear(5, 2).double()
    options = CLAMOptions(k_sample=k_sample, instance_loss=loss)
    order = np.argsort(-array(attention))
    if own:
        number = min(k_sample, count // 2)
        chosen = [(m, 1) for m in order[: max(number, 1)]] + [(m, 0) for m in order[::-1][:number]]
    else:
        chosen = [(m, 0) for m in order[:k_sample]]
    logits, single = linear(classifier, array(h)), svm if loss == "svm" else cross_entropy
    expected = np.mean([single(logits[m], target) for m, target in chosen])
    return instance_term(h, attention, classifier, own, options).item(), float(expected)


@pytest.mark.parametrize("loss", ["svm", "cross-entropy"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 40])
def test_the_ends_of_the_attention_are_learned(count: int, own: bool, loss: str) -> None:
    found, expected = term(count, own, loss)
    assert found == pytest.approx(expected, abs=1e-12)


def test_fewer_samples() -> None:
    for count in (3, 9):
        found, expected = term(count, True, k_sample=2)
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["clam-sb", "clam-mb"])
def test_loss_by_hand(name: str) -> None:
    model, x = make(name, BREAST, LUNG, COLON, k_sample=2, bag_weight=0.6), bag(9)
    output = model(x)
    h, logits = array(output.instance_features)[0], array(output.logits)[0]
    attention = array(model.class_attention(output))[0]
    for label, start, concerned in ((0, 0, [0]), (1, 0, [1]), (2, 2, [2, 3]), (3, 2, [2, 3]), (5, 4, [5])):
        head = [0, 0, 1, 1, 2, 2, 2][label]
        each = []
        for column in concerned:
            order = np.argsort(-attention[:, column])
            chosen = (
                [(m, 1) for m in order[:2]] + [(m, 0) for m in order[-2:]] if column == label else [(m, 0) for m in order[:2]]
            )
            scores = linear(model.heads[head].instances[column - start], h)
            each.append(np.mean([svm(scores[m], target) for m, target in chosen]))
        terms = model.loss(output, torch.tensor([label]))
        assert list(terms) == ["ce", "instance"]
        assert terms["ce"].item() == pytest.approx(0.6 * cross_entropy(logits, label))
        assert terms["instance"].item() == pytest.approx(0.4 * np.mean(each))


@pytest.mark.parametrize("name", ["clam-sb", "clam-mb"])
def test_clustering_follows_the_attention_and_does_not_move_it(name: str) -> None:
    model = make(name, LUNG)
    model.loss(model(bag(9)), torch.tensor([0]))["instance"].backward()
    pool = model.trunk.pool.units if name == "clam-sb" else model.trunk.units
    assert pool.v.weight.grad is None or (pool.v.weight.grad == 0).all()
    assert (model.trunk.embedding.embed.weight.grad != 0).any()
