"""Mean pooling against its equations."""

from __future__ import annotations

import numpy as np

from tests.comel.models.zoo import BREAST, LUNG, array, bag, embedded, linear, make, softmax


def test_equations() -> None:
    model, x = make("mean", BREAST, LUNG), bag(5)
    output, h = model(x), embedded(model, x)
    per_instance = [np.concatenate([linear(head, row) for head in model.heads]) for row in h]
    np.testing.assert_allclose(array(output.instance_logits)[0], per_instance, atol=1e-12)
    np.testing.assert_allclose(array(output.logits)[0], np.mean(per_instance, axis=0), atol=1e-12)
    np.testing.assert_allclose(array(output.bag_features)[0], h.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(array(output.attention)[0], np.full(5, 0.2), atol=1e-15)


def test_instance_scores_are_the_bags_probability_times_the_instances() -> None:
    model, x = make("mean", BREAST, LUNG), bag(5)
    output = model(x)
    p, own = softmax(array(output.logits)[0]), array(output.instance_logits)[0]
    for m in range(5):
        expected = p[1] * softmax(own[m, :2])[1], *(p[2:] * softmax(own[m, 2:]))
        np.testing.assert_allclose(array(output.instance_scores)[0, m, 1:], expected, atol=1e-12)
