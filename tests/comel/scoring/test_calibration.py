"""The temperature against a search over a grid, and where data name none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.scoring.calibration import fit_temperature


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Summed bag by bag, each label doubted as one bag more of every class would have it."""
    total, classes = 0.0, logits.shape[1]
    for row, label in zip(logits, labels, strict=True):
        highest = max(row)
        log_sum = math.log(sum(math.exp((value - highest) / temperature) for value in row))
        alike = sum(other == label for other in labels)
        for column, value in enumerate(row):
            aim = ((alike if column == label else 0) + 1) / (alike + classes)
            total -= aim * ((value - highest) / temperature - log_sum)
    return total


def drawn(temperature: float, classes: int, bags: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Bags whose labels follow softmax(logits / temperature)."""
    generator = np.random.default_rng(classes)
    logits = 3 * generator.normal(size=(bags, classes))
    powers = np.exp(logits / temperature)
    shares = powers / powers.sum(axis=1, keepdims=True)
    return logits, np.array([generator.choice(classes, p=share) for share in shares])


@pytest.mark.parametrize(("temperature", "classes"), [(0.5, 2), (1.0, 3), (2.5, 4)])
def test_the_temperature_of_the_data_is_found(temperature: float, classes: int) -> None:
    assert fit_temperature(*drawn(temperature, classes)) == pytest.approx(temperature, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8), st.integers(0, 1)), min_size=2, max_size=8))
def test_no_temperature_on_a_grid_is_likelier(rows: list[tuple[int, int, int]]) -> None:
    logits, labels = np.array([row[:2] for row in rows], dtype=float), np.array([row[2] for row in rows])
    found = fit_temperature(logits, labels)
    assert 0.05 <= found <= 20
    if len(set(labels.tolist())) < 2 or all(row[0] == row[1] for row in rows):
        assert found == 1.0
        return
    best = negative_log_likelihood(logits, labels, found)
    for temperature in np.geomspace(0.05, 20, 40):
        assert best <= negative_log_likelihood(logits, labels, float(temperature)) + 1e-4


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.empty((0, 2)), []),
        ([[1.0, 0.0]], [0]),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 0]),
        ([[1.0, 1.0], [1.0, 1.0]], [0, 1]),
    ],
    ids=["no bag", "one bag", "one class", "no difference"],
)
def test_where_data_name_none_it_is_one(logits: object, labels: list[int]) -> None:
    assert fit_temperature(logits, labels) == 1.0  # type: ignore[arg-type]


def test_where_all_are_right_it_is_as_sure_as_their_number_allows() -> None:
    """Bags at one margin each side: the confidence is the (n + 1) / (n + 2) of Platt."""
    for bags in (3, 12):
        found = fit_temperature([[4.0, 0.0]] * bags + [[0.0, 4.0]] * bags, [0] * bags + [1] * bags)
        assert 1 / (1 + math.exp(-4 / found)) == pytest.approx((bags + 1) / (bags + 2), abs=1e-4)


def test_always_wrong_is_as_unsure_as_may_be() -> None:
    assert fit_temperature([[5.0, 0.0], [0.0, 5.0]], [1, 0]) == pytest.approx(20, rel=1e-2)


def test_a_wrong_bag_among_extreme_ones_gives_a_number() -> None:
    assert 0.05 <= fit_temperature([[1e6, 0.0], [0.0, 1e6], [1e6, 0.0]], [0, 1, 1]) <= 20


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [([[math.nan, 0.0]], [0], "finite"), ([[1.0, 0.0]], [0, 1], "finite"), ([[1.0, 0.0]], [2], r"labels 2 \.\. 2 of 2")],
)
def test_what_cannot_be_fitted(logits: list[list[float]], labels: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_temperature(logits, labels)
