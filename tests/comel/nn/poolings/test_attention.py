"""Attention pooling against a loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.nn.poolings.attention import AttentionPooling


def pooling(dim: int = 6, hidden: int = 4) -> AttentionPooling:
    torch.manual_seed(3)
    return AttentionPooling(dim, hidden).double()


def test_equals_a_loop() -> None:
    pool, h = pooling(), torch.randn(2, 5, 6, dtype=torch.float64)
    z, attention = pool(h)
    for b in range(2):
        scores = [
            sum(w * math.tanh(v @ row) for w, v in zip(pool.w.weight[0].detach(), pool.v.weight.detach(), strict=True))
            for row in h[b]
        ]
        weights = [math.exp(score) for score in scores]
        total = sum(weights)
        feature = sum(weight / total * row for weight, row in zip(weights, h[b], strict=True))
        assert attention[b].tolist() == pytest.approx([weight / total for weight in weights], abs=1e-12)
        torch.testing.assert_close(z[b], feature, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0, 100))
def test_a_padded_batch_equals_its_single_bags(sizes: list[int], padding: float) -> None:
    pool = pooling()
    h = torch.full((len(sizes), max(sizes), 6), padding, dtype=torch.float64)
    mask = torch.zeros(h.shape[:2], dtype=torch.bool)
    for b, count in enumerate(sizes):
        h[b, :count], mask[b, :count] = torch.randn(count, 6, dtype=torch.float64), True
    z, attention = pool(h, mask)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(len(sizes), dtype=torch.float64))
    assert (attention >= 0).all()
    assert (attention[~mask] == 0).all()
    for b, count in enumerate(sizes):
        alone_z, alone = pool(h[b : b + 1, :count])
        torch.testing.assert_close(z[b], alone_z[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(attention[b, :count], alone[0], rtol=0, atol=1e-12)


def test_masked_instances_get_no_gradient() -> None:
    h = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    z, _ = pooling()(h, torch.tensor([[True, False, True, False]]))
    z.square().sum().backward()
    assert h.grad is not None
    assert (h.grad[0, [1, 3]] == 0).all()
    assert (h.grad[0, [0, 2]] != 0).any()


def test_has_no_biases() -> None:
    z, attention = pooling()(torch.zeros(1, 3, 6, dtype=torch.float64))
    torch.testing.assert_close(attention, torch.full((1, 3), 1 / 3, dtype=torch.float64))
    assert (z == 0).all()
    assert [name for name, _ in pooling().named_parameters()] == ["v.weight", "w.weight"]
