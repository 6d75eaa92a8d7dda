"""Pseudo-labels and their loss against four instances worked out by hand, and at their edges."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.nn.bppl import PseudoLabels, bppl_loss, next_threshold, pseudo_labels, reachable_threshold, scaled_attention

# Two instances along each axis; the attention is on the first axis. With a = (0.7, 0.1, 0.1, 0.1):
#   z+ = (0.7 + 2 x 0.1, 0 + 3 x 0.1) = (0.9, 0.3)
#   z- = (0.3 + 2 x 0.9, 0 + 3 x 0.9) / 3 = (0.7, 0.9)
INSTANCES = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
ATTENTION = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_pseudo_labels_by_hand() -> None:
    to_positive, to_negative = math.hypot(0.9, 0.3), math.hypot(0.7, 0.9)
    along_x = 0.9 / to_positive - 0.7 / to_negative  # cos(h, z+) - cos(h, z-)
    along_y = 0.3 / to_positive - 0.9 / to_negative
    found = pseudo_labels(INSTANCES, ATTENTION, tau2=0.55)
    assert found.labels.tolist()[:3] == [True, True, False]
    expected = [sigmoid(along_x), sigmoid(along_x), sigmoid(-along_y), 0.5]  # the last one lies on the origin: no direction
    assert found.confidence.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.kept.tolist() == [True, True, True, False]
    assert found.kept_fraction == 0.75
    # between the two confidences only the surer ones stay; a lower temperature brings both above
    between = (sigmoid(along_x) + sigmoid(-along_y)) / 2
    assert pseudo_labels(INSTANCES, ATTENTION, between).kept.tolist() == [e > between for e in expected]
    assert pseudo_labels(INSTANCES, ATTENTION, between, temperature=0.1).kept.tolist() == [True, True, True, False]


def test_pseudo_labels_from_the_midpoint_by_hand() -> None:
    # the midpoint of (0.9, 0.3) and (0.7, 0.9) is (0.8, 0.6); from there the prototypes lie along +-(0.1, -0.3)
    expected_labels, expected = [], []
    for x, y in INSTANCES.tolist():
        cosine = (0.1 * (x - 0.8) - 0.3 * (y - 0.6)) / math.hypot(0.1, 0.3) / math.hypot(x - 0.8, y - 0.6)
        expected_labels.append(cosine > 0)
        expected.append(sigmoid(2 * abs(cosine)))
    found = pseudo_labels(INSTANCES, ATTENTION, tau2=0.8, centre=True)
    assert found.labels.tolist() == expected_labels
    assert found.confidence.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.kept.tolist() == [confidence > 0.8 for confidence in expected]


def test_loss_by_hand() -> None:
    labels = PseudoLabels(
        torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False]), torch.full((4,), 0.9)
    )
    p = torch.tensor([0.8, 0.3, 0.1, 0.9], dtype=torch.float64)
    nll = (-math.log(0.8) - math.log(0.7)) / 2
    assert bppl_loss(p, labels).item() == pytest.approx(2 / 4 * nll, abs=1e-12)


def test_gradient_flows_through_the_probability_alone() -> None:
    h, attention = INSTANCES.clone().requires_grad_(True), ATTENTION.clone().requires_grad_(True)
    labels = pseudo_labels(h, attention, 0.55)
    assert not labels.confidence.requires_grad
    p = torch.tensor([0.8, 0.3, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    bppl_loss(p, labels).backward()
    assert h.grad is None
    assert attention.grad is None
    assert p.grad is not None
    assert p.grad.tolist() == pytest.approx([-1 / 0.8 / 4, -1 / 0.3 / 4, 1 / 0.6 / 4, 0.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_certain_probabilities_cost_a_finite_amount(dtype: torch.dtype) -> None:
    labels = PseudoLabels(torch.tensor([True, False, True, False]), torch.ones(4, dtype=torch.bool), torch.ones(4))
    p = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=dtype, requires_grad=True)
    loss = bppl_loss(p, labels)
    assert loss.item() == pytest.approx(-math.log(1e-6) / 2, rel=1e-2)
    loss.backward()
    assert p.grad is not None
    assert torch.isfinite(p.grad).all()


def test_loss_works_under_autocast() -> None:
    labels = PseudoLabels(torch.tensor([True, False]), torch.ones(2, dtype=torch.bool), torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = bppl_loss(torch.tensor([0.75, 0.5], dtype=torch.bfloat16), labels)
    assert loss.item() == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2, rel=1e-6)


def test_nothing_kept_is_zero_and_still_attached() -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    p = torch.tensor([0.2, 0.5, 1.0], requires_grad=True)
    loss = bppl_loss(p, PseudoLabels(nothing, nothing, torch.full((3,), 0.5)))
    loss.backward()
    assert loss.item() == 0
    assert p.grad is not None
    assert (p.grad == 0).all()


@pytest.mark.parametrize("count", [0, 1])
def test_a_bag_without_a_second_prototype_keeps_nothing(count: int) -> None:
    found = pseudo_labels(torch.ones(count, 2), torch.ones(count), 0.5)
    assert found.kept.tolist() == [False] * count
    assert found.kept_fraction == 0.0
    assert bppl_loss(torch.zeros(count), found).item() == 0.0


def test_all_attention_on_one_instance() -> None:
    found = pseudo_labels(INSTANCES[:3], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), 0.5)
    assert found.labels.tolist() == [True, True, False]
    assert torch.isfinite(found.confidence).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.floats(0.05, 5), st.booleans(), st.integers(0, 10**6))
def test_confidence_stays_under_its_bound(count: int, width: int, temperature: float, centre: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(count, width, dtype=torch.float64, generator=generator) * 10
    attention = torch.randn(count, dtype=torch.float64, generator=generator).mul(5).softmax(dim=0)
    found = pseudo_labels(h, attention, reachable_threshold(1.0, temperature), temperature, centre=centre)
    assert (found.confidence >= 0.5 - 1e-12).all()
    assert (found.confidence <= sigmoid(2 / temperature) + 1e-12).all()
    lowest = pseudo_labels(h, attention, 0.0, temperature, centre=centre)
    assert lowest.kept_fraction == 1.0
    assert torch.equal(lowest.labels, found.labels)


def test_the_bound_is_reached() -> None:
    h = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    found = pseudo_labels(h, torch.tensor([0.9, 0.1], dtype=torch.float64), 0.88)
    assert found.confidence.tolist() == pytest.approx([0.8807970779778823] * 2)
    assert found.kept_fraction == 1.0
    assert pseudo_labels(h, torch.tensor([0.9, 0.1], dtype=torch.float64), 0.9).kept_fraction == 0.0


def test_thresholds() -> None:
    assert next_threshold(0.0, 0.5) == 0.5
    assert next_threshold(0.8, 0.5) == pytest.approx(0.7)
    assert next_threshold(1.0, 1.0) == 1.0
    assert reachable_threshold(0.5, 0.3) == 0.5
    assert reachable_threshold(1.0, 1.0) == pytest.approx(0.8807970779778823)
    assert reachable_threshold(0.75, 1.0) == pytest.approx((0.5 + 0.8807970779778823) / 2)
    assert reachable_threshold(0.9, 1e-4) == pytest.approx(0.9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_scaled_attention(values: list[float]) -> None:
    scaled = scaled_attention(torch.tensor(values, dtype=torch.float64))
    lowest, highest = min(values), max(values)
    expected = [(v - lowest) / max(highest, sys.float_info.min) for v in values]
    assert scaled.tolist() == pytest.approx(expected, abs=1e-12)
    assert scaled.min() == 0
