"""Instance scores: composed by hand, dark where the bag is, and never out of range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comel.cohort.classes import ClassSpace
from comel.models.scores import compose_scores, shown_by_attention, shown_by_labels
from tests.comel.models.zoo import BREAST, COLON, LUNG, softmax

CLASSES = ClassSpace.of([BREAST, LUNG, COLON])  # normal tumour | adeno squamous | low high normal


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_composition_by_hand() -> None:
    p, shown = torch.softmax(3 * random(2, 7), dim=-1), random(2, 4, 7, seed=1)
    mask = torch.tensor([[True, True, True, True], [True, False, True, False]])
    scores = compose_scores(CLASSES, p, shown, mask)
    for b in range(2):
        for m in range(4):
            q, s = p[b].tolist(), shown[b, m].tolist()
            expected = [
                (q[0] + q[1]) * (1 - s[1]),
                q[1] * s[1],
                q[2] * s[2],
                q[3] * s[3],
                q[4] * s[4],
                q[5] * s[5],
                (q[4] + q[5] + q[6]) * (1 - max(s[4], s[5])),
            ]
            assert scores[b, m].tolist() == pytest.approx(expected if mask[b, m] else [0.0] * 7, abs=1e-15)


def test_attention_scaled_in_its_bag() -> None:
    attention = torch.tensor([[[0.2, 0.5], [0.5, 0.5], [0.3, 0.0]], [[0.9, 0.9], [1.0, 1.0], [0.9, 0.9]]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [False, True, False]])
    shown = shown_by_attention(attention, mask)
    np.testing.assert_allclose(shown[0], [[0.0, 1.0], [0.6, 1.0], [0.2, 0.0]], atol=1e-15)
    np.testing.assert_array_equal(shown[1], [[0, 0], [1, 1], [0, 0]])  # the only instance is the bag


def test_labels_of_instances_are_within_their_head() -> None:
    logits = 5 * random(2, 3, 7)
    shown = shown_by_labels(CLASSES, logits)
    for columns in (slice(0, 2), slice(2, 4), slice(4, 7)):
        np.testing.assert_allclose(shown[:, :, columns], softmax(logits[:, :, columns].numpy()), atol=1e-15)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_scores_stay_below_the_bags_probability(seed: int, count: int) -> None:
    p, shown = torch.softmax(9 * random(1, 7, seed=seed), dim=-1), random(1, count, 7, seed=seed + 1)
    scores = compose_scores(CLASSES, p, shown)
    assert (scores >= 0).all()
    findings = [c for c, positive in enumerate(CLASSES.positive) if positive]
    assert (scores[:, :, findings] <= p[:, None, findings]).all()
    for i in range(3):
        columns = CLASSES.columns(i)
        assert (scores[:, :, columns] <= p[:, columns].sum() + 1e-12).all()
