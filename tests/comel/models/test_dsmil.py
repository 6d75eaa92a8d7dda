"""DSMIL against its paper's two streams."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.comel.models.zoo import BREAST, DIM, LUNG, array, bag, cross_entropy, embedded, linear, make, padded, softmax


def test_both_streams() -> None:
    model, x = make("dsmil", BREAST, LUNG), bag(7)
    output, h = model(x), embedded(model, x)
    q, v = linear(model.trunk.q, h), linear(model.trunk.v, h)
    first, second, attention = [], [], []
    for head in model.heads:
        scores = linear(head.instance, h)
        features = []
        for c in range(2):
            critical = int(np.argmax(scores[:, c]))
            first.append(scores[critical, c])
            a = softmax(np.array([float(row @ q[critical]) / math.sqrt(q.shape[1]) for row in q]))
            attention.append(a)
            features.append(sum(weight * row for weight, row in zip(a, v, strict=True)))
        kernel = array(head.bag.weight).reshape(2, 2, DIM)
        for c in range(2):
            mixed = sum(float(kernel[c, other] @ features[other]) for other in range(2))
            second.append(mixed + array(head.bag.bias)[c])
    np.testing.assert_allclose(array(output.max_logits)[0], first, atol=1e-12)
    np.testing.assert_allclose(array(output.bag_logits)[0], second, atol=1e-12)
    logits = (np.array(first) + np.array(second)) / 2
    np.testing.assert_allclose(array(output.logits)[0], logits, atol=1e-12)
    np.testing.assert_allclose(array(output.attention)[0], attention[int(np.argmax(logits))], atol=1e-12)
    for label, over, columns in ((1, "seen", slice(0, 4)), (3, "task", slice(2, 4))):
        terms = model.loss(output, torch.tensor([label]), over=over)
        assert list(terms) == ["ce", "max"]
        own = label - columns.start
        assert terms["ce"].item() == pytest.approx(0.5 * cross_entropy(np.array(second)[columns], own))
        assert terms["max"].item() == pytest.approx(0.5 * cross_entropy(np.array(first)[columns], own))


def test_padding_is_never_critical() -> None:
    model, bags = make("dsmil", BREAST), padded(3, 6)
    output = model(bags)
    assert bags.mask is not None
    for b in range(2):
        real = output.instance_logits[b, bags.mask[b]]
        assert torch.equal(output.max_logits[b], real.max(dim=0).values)
