"""CLAM with a branch a class: attention, logits and scores, by hand."""

from __future__ import annotations

import numpy as np

from tests.comel.models.zoo import BREAST, LUNG, array, bag, embedded, make, softmax


def test_equations() -> None:
    model, x = make("clam-mb", BREAST, LUNG), bag(6)
    output, h, units = model(x), embedded(model, x), model.trunk.units
    g = np.tanh(h @ array(units.v.weight).T) / (1 + np.exp(-h @ array(units.u.weight).T))
    attention, features, logits = [], [], []
    for head in model.heads:
        for c in range(2):
            a = softmax(g @ array(head.branches.weight)[c])
            z = sum(weight * row for weight, row in zip(a, h, strict=True))
            attention.append(a)
            features.append(z)
            logits.append(float(array(head.bag.weight)[c] @ z + array(head.bag.bias)[c]))
    predicted = int(np.argmax(logits))
    np.testing.assert_allclose(array(output.branches)[0].T, attention, atol=1e-12)
    np.testing.assert_allclose(array(output.logits)[0], logits, atol=1e-12)
    np.testing.assert_allclose(array(output.attention)[0], attention[predicted], atol=1e-12)
    np.testing.assert_allclose(array(output.bag_features)[0], features[predicted], atol=1e-12)
    p = softmax(np.array(logits))
    for c in (1, 2, 3):
        a = attention[c]
        np.testing.assert_allclose(array(output.instance_scores)[0, :, c], p[c] * (a - a.min()) / a.max(), atol=1e-12)
