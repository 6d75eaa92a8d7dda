"""Scores against values worked out by hand, against counting, and against what must hold for any input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from comel.scoring.metrics import (
    bag_metrics,
    bootstrap_counts,
    choose_threshold,
    continual_metrics,
    instance_metrics,
    percentile_interval,
)


def counted_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of (positive, negative) pairs in the right order, ties half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in scores[positive] for other in scores[~positive]]
    return float(np.mean(pairs))


def test_bag_metrics_by_hand() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]
    scores = bag_metrics(probabilities, [0, 1, 0, 1])  # predicted 0, 1, 1, 0
    assert scores["accuracy"] == scores["balanced_accuracy"] == scores["recall"] == scores["precision"] == scores["f1"] == 0.5
    assert scores["auc"] == pytest.approx(0.75)  # class 0: .7 .2 against .1 .6; class 1: .8 .3 against .2 .5
    # the four confidences lie in four bins
    assert scores["ece"] == pytest.approx((0.3 + 0.2 + 0.5 + 0.6) / 4)


def test_a_class_that_is_only_predicted_costs_recall_not_a_class() -> None:
    scores = bag_metrics([[0.9, 0.0, 0.1], [0.1, 0.2, 0.7], [0.2, 0.7, 0.1]], [0, 0, 1])
    assert scores["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["precision"] == 1.0
    assert scores["f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_calibration_error_gathers_a_bin() -> None:
    confident = np.array([[0.82, 0.18], [0.84, 0.16], [0.86, 0.14], [0.81, 0.19]])
    scores = bag_metrics(confident, [0, 0, 0, 1], bins=5)
    assert scores["ece"] == pytest.approx(abs(0.75 - (0.82 + 0.84 + 0.86 + 0.81) / 4))
    assert bag_metrics([[1.0, 0.0], [0.0, 1.0]], [0, 1])["ece"] == 0


def test_bag_metrics_where_they_are_not_defined() -> None:
    assert set(bag_metrics(np.empty((0, 3)), []).values()) == {None}
    assert bag_metrics([[0.9, 0.1]], [0])["auc"] is None
    with pytest.raises(ValueError, match=r"labels 0 \.\. 2 of 2"):
        bag_metrics([[0.9, 0.1], [0.5, 0.5]], [0, 2])
    with pytest.raises(ValueError, match="finite"):
        bag_metrics([[math.nan, 0.1]], [0])


@settings(max_examples=50, deadline=None)
@given(
    st.integers(2, 4).flatmap(
        lambda c: st.lists(st.tuples(st.integers(0, c - 1), *[st.integers(0, 20)] * c), min_size=1, max_size=20)
    )
)
def test_bag_metrics_against_counting(rows: list[tuple[int, ...]]) -> None:
    table = np.array([row[1:] for row in rows], dtype=float)
    table = (table + 1) / (table + 1).sum(axis=1, keepdims=True)
    labels = np.array([row[0] for row in rows])
    scores = bag_metrics(table, labels)
    json.dumps(scores, allow_nan=False)
    present = sorted(set(labels.tolist()))
    predicted = [int(np.argmax(row)) for row in table]
    recalls = [
        np.mean([guess == label for guess, true in zip(predicted, labels, strict=True) if true == label]) for label in present
    ]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert 0 <= scores["ece"] <= 1  # type: ignore[operator]
    if len(present) > 1:
        assert scores["auc"] == pytest.approx(np.mean([counted_auc(table[:, label], labels == label) for label in present]))
    else:
        assert scores["auc"] is None


def test_instance_metrics_by_hand() -> None:
    scores = [np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.6, 0.1]), np.array([0.7, 0.9]), np.empty(0)]
    labels = [np.array([1, 0, 1, -1]), np.array([0, 0]), np.array([1, 1]), np.empty(0, dtype=np.int8)]
    got = instance_metrics(scores, labels, threshold=0.5)
    assert got["accuracy_all_slides"] == pytest.approx(4 / 7)
    assert got["accuracy_positive_slides"] == pytest.approx(3 / 5)
    assert got["f1_all_slides"] == pytest.approx(6 / 9)  # TP 3, FP 2, FN 1
    assert got["f1_positive_slides"] == pytest.approx(6 / 8)
    assert got["dice"] == pytest.approx((2 / 4 + 1) / 2)
    assert got["iou"] == pytest.approx((1 / 3 + 1) / 2)
    assert got["auc"] == pytest.approx(9 / 12)


def test_instance_metrics_where_they_are_not_defined() -> None:
    negative = instance_metrics([np.array([0.1, 0.2])], [np.array([0, 0])])
    assert negative["accuracy_all_slides"] == 1.0
    assert {name for name, value in negative.items() if value is not None} == {"accuracy_all_slides"}
    assert set(instance_metrics([], []).values()) == {None}
    assert set(instance_metrics([np.array([0.4])], [np.array([-1])]).values()) == {None}
    with pytest.raises(ValueError, match="labels 1, 0, -1"):
        instance_metrics([np.array([0.4])], [np.array([2])])


SLIDES = st.lists(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([-1, 0, 1])), max_size=12).map(
        lambda pairs: (np.array([score / 20 for score, _ in pairs]), np.array([label for _, label in pairs], dtype=np.int8))
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(SLIDES)
def test_instance_metrics_keep_their_relations(slides: list[tuple[np.ndarray, np.ndarray]]) -> None:
    scores, labels = [one for one, _ in slides], [truth for _, truth in slides]
    got = instance_metrics(scores, labels)
    json.dumps(got, allow_nan=False)
    bent = instance_metrics([np.exp(3 * one) for one in scores], labels, threshold=math.exp(1.5 - 1e-9))
    assert got["auc"] == (None if bent["auc"] is None else pytest.approx(bent["auc"]))
    assert got["accuracy_all_slides"] == bent["accuracy_all_slides"]
    if slides:
        pooled, truth = np.concatenate(scores), np.concatenate(labels)
        if got["auc"] is not None:
            assert got["auc"] == pytest.approx(counted_auc(pooled[truth >= 0], truth[truth >= 0] == 1))
    for one, label in slides:
        alone = instance_metrics([one], [label])
        if alone["iou"] is not None:
            assert alone["dice"] == pytest.approx(2 * alone["iou"] / (1 + alone["iou"]))
            assert alone["dice"] == pytest.approx(alone["f1_positive_slides"])


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 25), elements=st.integers(0, 9).map(lambda n: n / 10)), st.data())
def test_threshold_is_the_best_of_all(scores: np.ndarray, data: st.DataObject) -> None:
    labels = data.draw(hnp.arrays(np.int8, len(scores), elements=st.sampled_from([-1, 0, 1])))
    chosen = choose_threshold(scores, labels)
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        assert chosen == 0.5
        return

    def youden(threshold: float) -> float:
        return float((positive >= threshold).mean() - (negative >= threshold).mean())

    best = max(youden(float(score)) for score in scores)
    assert chosen == 0.5 if best <= 0 else youden(chosen) == pytest.approx(best)


def test_continual_metrics_by_hand() -> None:
    matrix: list[list[float | None]] = [[0.9, None, None], [0.95, 0.8, None], [0.7, 0.85, 0.6]]
    got = continual_metrics(matrix)
    assert got["final_average"] == pytest.approx((0.7 + 0.85 + 0.6) / 3)
    assert got["average_over_time"] == pytest.approx((0.9 + 1.75 / 2 + 2.15 / 3) / 3)
    assert got["backward_transfer"] == pytest.approx((-0.2 + 0.05) / 2)
    assert got["forgetting"] == pytest.approx((0.25 + 0.0) / 2)
    assert got["forward_transfer"] is None


def test_forward_transfer_counts_the_tasks_that_had_a_head() -> None:
    matrix = [[0.9, 0.6, math.nan], [0.9, 0.8, math.nan], [0.7, 0.8, 0.6]]
    assert continual_metrics(matrix, chance=[0.5, 0.5, 0.5])["forward_transfer"] == pytest.approx(0.1)
    assert continual_metrics(matrix)["forward_transfer"] is None


def test_continual_metrics_where_they_are_not_defined() -> None:
    joint = continual_metrics([[0.9, 0.7]])
    assert joint["final_average"] == joint["average_over_time"] == pytest.approx(0.8)
    assert joint["backward_transfer"] is joint["forgetting"] is joint["forward_transfer"] is None
    assert continual_metrics([[0.9]])["forgetting"] is None
    hole = continual_metrics([[None, None], [0.5, 0.5]])
    assert (hole["final_average"], hole["average_over_time"], hole["backward_transfer"], hole["forgetting"]) == (
        0.5,
        None,
        None,
        None,
    )
    shapes: list[list[list[float]]] = [[], [[]], [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    for shape in shapes:
        with pytest.raises(ValueError, match="matrix"):
            continual_metrics(shape)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6).flatmap(lambda t: hnp.arrays(np.float64, (t, t), elements=st.floats(0, 1))))
def test_forgetting_is_never_negative_and_bounds_backward_transfer(matrix: np.ndarray) -> None:
    got = continual_metrics(matrix.tolist())
    assert got["forgetting"] >= 0  # type: ignore[operator]
    assert got["forgetting"] >= -got["backward_transfer"] - 1e-12  # type: ignore[operator]
    upper = np.triu_indices(len(matrix), 1)
    masked = matrix.copy()
    masked[upper] = np.nan
    assert continual_metrics(masked.tolist()) == got


def test_bootstrap_draws_patients() -> None:
    """Twenty bags of a patient, all alike, make its interval no narrower."""
    each = np.random.default_rng(0).normal(size=40)
    counts = bootstrap_counts([f"p{patient}" for patient in range(40) for _ in range(20)], n=2000)
    assert counts.shape == (2000, 800)
    assert (counts.sum(axis=1) == 800).all()
    assert (counts.reshape(2000, 40, 20) == counts.reshape(2000, 40, 20)[:, :, :1]).all()
    low, high = percentile_interval(counts @ each.repeat(20) / 800) or (0.0, 0.0)
    half = 1.96 * each.std() / math.sqrt(len(each))
    assert (low, high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.06)
    assert percentile_interval(counts @ each.repeat(20) / 800, level=0.5)[0] > low  # type: ignore[index]
    assert bootstrap_counts([], n=3).shape == (3, 0)


def test_an_interval_needs_half_of_the_resamples() -> None:
    assert percentile_interval(np.array([math.nan, math.nan, 0.5])) is None
    assert percentile_interval(np.array([math.nan, 0.5, 0.5])) == (0.5, 0.5)
    assert percentile_interval(np.array([])) is None
