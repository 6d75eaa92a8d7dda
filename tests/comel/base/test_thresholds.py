"""A threshold marks nothing among equal scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.base.thresholds import all_equal, from_threshold


@pytest.mark.parametrize("count", [0, 2, 3, 500])
@pytest.mark.parametrize("score", [0.0, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.97])
def test_equal_scores_mark_nothing(count: int, score: float, threshold: float) -> None:
    scores = np.full(count, score, np.float32)
    noise = np.random.default_rng(0).normal(0, 1e-7, count).astype(np.float32)
    for one in (scores, np.clip(scores + noise, 0, 1)):
        assert not from_threshold(one, threshold).any()
        assert from_threshold(one, 0).all()


def test_a_tile_alone_is_marked_by_its_score() -> None:
    for score in (0.2, 0.5, 0.9):
        assert from_threshold(np.array([score], np.float32), 0.5).tolist() == [score >= 0.5]
    assert not all_equal(np.array([0.5], np.float32))


@given(st.lists(st.floats(0, 1, width=32), min_size=2), st.floats(0, 1, width=32))
def test_other_scores_are_marked_from_the_threshold_on(scores: list[float], threshold: float) -> None:
    one = np.array(scores, np.float32)
    expected = np.zeros(len(one), bool) if all_equal(one) and threshold > 0 else one >= np.float32(threshold)
    assert from_threshold(one, threshold).tolist() == expected.tolist()
    assert from_threshold(one.astype(np.float64), float(threshold)).tolist() == expected.tolist()
