"""RRT-MIL: regions, EPEG on the attention's logits and CR-MSA, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from comel.models.rrt_mil import CrossRegionAttention, RegionAttention, RRTMILOptions, region_places
from tests.comel.models.zoo import BREAST, LUNG, array, bag, embedded, layer_norm, linear, make, softmax


def attention_by_hand(layer: RegionAttention, x: np.ndarray) -> np.ndarray:
    """One region (n, dim): logits are made, convolved along the queries and added to, as published."""
    n, heads = len(x), layer.num_heads
    q, k, v = (linear(part, x).reshape(n, heads, -1) for part in (layer.q, layer.k, layer.v))
    out = []
    for h in range(heads):
        logits = q[:, h] @ k[:, h].T / math.sqrt(q.shape[2])
        convolved = np.zeros_like(logits)
        if layer.positions is not None:
            kernel = array(layer.positions.kernels.weight)[h, 0, :, 0]
            for i in range(n):
                for offset in range(-(len(kernel) // 2), len(kernel) // 2 + 1):
                    if 0 <= i + offset < n:
                        convolved[i] += kernel[offset + len(kernel) // 2] * logits[i + offset]
        out.append(softmax(logits + convolved) @ v[:, h])
    return linear(layer.proj, np.concatenate(out, axis=1))


def across_by_hand(layer: CrossRegionAttention, regions: list[np.ndarray]) -> list[np.ndarray]:
    logits = [linear(layer.phi, x) for x in regions]  # (n, k)
    number = logits[0].shape[1]
    met = []
    for j in range(number):
        representatives = np.stack([softmax(s[:, j]) @ x for s, x in zip(logits, regions, strict=True)])
        met.append(attention_by_hand(layer.attention, representatives))
    out = []
    for r, s in enumerate(logits):
        rows = []
        for p in range(len(s)):
            row = np.zeros(regions[0].shape[1])
            for j in range(number):
                spread = (s[p, j] - s[:, j].min()) / (s[:, j].max() - s[:, j].min() + 1e-8)
                row += softmax(s[p])[j] * spread * met[j][r]
            rows.append(row)
        out.append(np.stack(rows))
    return out


def sequences(*sizes: int, dim: int = 8) -> tuple[list[np.ndarray], Tensor, Tensor]:
    """Regions without padding, and the same side by side with fives after them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((len(sizes), max(sizes), dim), 5.0, dtype=torch.float64)
    mask = torch.zeros(len(sizes), max(sizes), dtype=torch.bool)
    for r, size in enumerate(sizes):
        x[r, :size], mask[r, :size] = torch.randn(size, dim, dtype=torch.float64, generator=generator), True
    return [array(x[r, :size]) for r, size in enumerate(sizes)], x, mask


@pytest.mark.parametrize("kernel", [None, 1, 3, 7])
def test_attention_in_a_region(kernel: int | None) -> None:
    torch.manual_seed(0)
    layer = RegionAttention(8, 2, kernel).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    regions, x, mask = sequences(6, 1, 4)
    out = layer(x, mask)
    for r, region in enumerate(regions):
        np.testing.assert_allclose(array(out)[r, : len(region)], attention_by_hand(layer, region), atol=1e-12)
    np.testing.assert_allclose(array(layer(x[:1]))[0], attention_by_hand(layer, regions[0]), atol=1e-12)


def test_attention_across_regions() -> None:
    torch.manual_seed(0)
    layer = CrossRegionAttention(8, 2, representatives=3).double().eval()
    regions, x, mask = sequences(6, 1, 4)
    out = layer(x, mask)
    for r, expected in enumerate(across_by_hand(layer, regions)):
        np.testing.assert_allclose(array(out)[r, : len(expected)], expected, atol=1e-12)


def test_regions_of_a_list() -> None:
    region, place, area = region_places(10, 2)  # ten in a square of four by four, cut into four of two by two
    assert area == 4
    assert region.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2]
    assert place.tolist() == [0, 1, 0, 1, 2, 3, 2, 3, 0, 1]


@given(st.integers(1, 400), st.integers(1, 9))
def test_places_are_taken_once_and_without_gaps(count: int, regions: int) -> None:
    region, place, area = region_places(count, regions)
    assert region.max() < regions**2
    assert len(set(zip(region.tolist(), place.tolist(), strict=True))) == count
    for number in region.unique():
        taken = place[region == number]
        assert torch.equal(taken.sort().values, torch.arange(len(taken)))
        assert len(taken) <= area


@pytest.mark.parametrize("count", [1, 3, 10, 30])
def test_model_by_hand(count: int) -> None:
    model, x = make("rrt-mil", BREAST, LUNG), bag(count)
    output, trunk, h = model(x), model.trunk, embedded(model, x)
    region, place, _ = region_places(count, 2)
    groups = [[int(i) for i in torch.where(region == r)[0][place[region == r].argsort()]] for r in region.unique()]
    parts = [h[group] for group in groups]
    parts = [part + attention_by_hand(trunk.within, layer_norm(trunk.norm1, part)) for part in parts]
    changes = across_by_hand(trunk.across, [layer_norm(trunk.norm2, part) for part in parts])
    expected = np.zeros_like(h)
    for group, part, change in zip(groups, parts, changes, strict=True):
        expected[group] = layer_norm(trunk.norm, part + change)
    np.testing.assert_allclose(array(output.instance_features)[0], expected, atol=1e-7)
    a = softmax(np.tanh(expected @ array(trunk.pool.v.weight).T) @ array(trunk.pool.w.weight)[0])
    np.testing.assert_allclose(array(output.attention)[0], a, atol=1e-7)
    logits = np.concatenate([linear(head, a @ expected) for head in model.heads])
    np.testing.assert_allclose(array(output.logits)[0], logits, atol=1e-7)


def test_the_position_kernel_is_odd() -> None:
    with pytest.raises(ValidationError, match="give an odd number"):
        RRTMILOptions(position_kernel=4)
