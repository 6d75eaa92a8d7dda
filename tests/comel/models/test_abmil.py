"""ABMIL against equations 7 to 9 of Ilse et al. 2018."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.comel.models.zoo import BREAST, LUNG, array, bag, cross_entropy, embedded, linear, make


@pytest.mark.parametrize("gated", [False, True])
def test_equations(gated: bool) -> None:
    model, x = make("abmil", BREAST, LUNG, gated=gated), bag(5)
    output, h, pool = model(x), embedded(model, x), model.trunk.pool
    v, w = array(pool.units.v.weight if gated else pool.v.weight), array(pool.w.weight)[0]
    scores = []
    for row in h:
        score = 0.0
        for j in range(len(w)):
            unit = math.tanh(float(v[j] @ row))
            if gated:
                unit /= 1 + math.exp(-float(array(pool.units.u.weight)[j] @ row))
            score += w[j] * unit
        scores.append(math.exp(score))
    a = np.array(scores) / sum(scores)
    z = sum(weight * row for weight, row in zip(a, h, strict=True))
    np.testing.assert_allclose(array(output.attention)[0], a, atol=1e-12)
    np.testing.assert_allclose(array(output.bag_features)[0], z, atol=1e-12)
    logits = np.concatenate([linear(head, z) for head in model.heads])
    np.testing.assert_allclose(array(output.logits)[0], logits, atol=1e-12)
    p = np.exp(logits) / np.exp(logits).sum()
    scaled = (a - a.min()) / a.max()
    np.testing.assert_allclose(array(output.instance_scores)[0, :, 1:], scaled[:, None] * p[1:], atol=1e-12)
    np.testing.assert_allclose(array(output.instance_scores)[0, :, 0], (p[0] + p[1]) * (1 - scaled), atol=1e-12)


def test_loss_over_the_task_or_over_all_seen() -> None:
    model = make("abmil", BREAST, LUNG)
    output = model(bag(5))
    logits, label = array(output.logits)[0], torch.tensor([3])
    assert list(model.loss(output, label)) == ["ce"]
    assert model.loss(output, label)["ce"].item() == pytest.approx(cross_entropy(logits, 3))
    assert model.loss(output, label, over="task")["ce"].item() == pytest.approx(cross_entropy(logits[2:], 1))
    output, label = model(torch.cat([bag(5), bag(5, seed=1)])), torch.tensor([3, 0])
    each = [cross_entropy(row, number) for row, number in zip(array(output.logits), label.tolist(), strict=True)]
    assert model.loss(output, label)["ce"].item() == pytest.approx(np.mean(each))
