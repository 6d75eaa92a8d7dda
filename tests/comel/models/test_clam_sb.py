"""CLAM with one branch: its attention and logits, by hand."""

from __future__ import annotations

import numpy as np

from tests.comel.models.zoo import BREAST, LUNG, array, bag, embedded, linear, make, softmax


def test_equations() -> None:
    model, x = make("clam-sb", BREAST, LUNG), bag(6)
    output, h, pool = model(x), embedded(model, x), model.trunk.pool
    v, u, w = (array(weight) for weight in (pool.units.v.weight, pool.units.u.weight, pool.w.weight))
    a = softmax(np.array([float(w[0] @ (np.tanh(v @ row) / (1 + np.exp(-u @ row)))) for row in h]))
    np.testing.assert_allclose(array(output.attention)[0], a, atol=1e-12)
    np.testing.assert_allclose(array(output.bag_features)[0], a @ h, atol=1e-12)
    logits = np.concatenate([linear(head.bag, a @ h) for head in model.heads])
    np.testing.assert_allclose(array(output.logits)[0], logits, atol=1e-12)
    assert list(model.heads[0]._modules) == ["bag", "instances"]
