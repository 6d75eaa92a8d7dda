"""The block around a mixer: two residuals of normalised rows, with and without gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from comel.nn import block as block_module
from comel.nn.block import Block
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width

DIM = 12


def instances(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM))


def make() -> Block:
    torch.manual_seed(0)
    return Block(make_mixer("gdat", Width(DIM, 3, dropout=0.1), {"region_size": 3})).double().eval()


@pytest.mark.parametrize("rows_at_once", [16_384, 7])
def test_block_without_gradients_equals_block_with(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(block_module, "_ROWS_AT_ONCE", rows_at_once)
    block = make()
    x, mask = torch.from_numpy(np.stack([instances(20), instances(20, 1)])), torch.ones(2, 20, dtype=torch.bool)
    mask[1, 15:] = False
    for given_mask in (None, mask):
        before, layout = x.clone(), Layout.of(x, mask=given_mask)
        with torch.no_grad():
            inferred = block(x, layout)
        torch.testing.assert_close(block(x, layout).detach(), inferred, rtol=0, atol=1e-12)
        assert torch.equal(x, before)
    # another memory layout must come out the same too
    with torch.no_grad():
        turned = block(x.transpose(1, 2).contiguous().transpose(1, 2), layout)
    torch.testing.assert_close(turned, inferred, rtol=0, atol=1e-12)


def test_block_is_two_residuals_of_normalised_rows() -> None:
    block = make()
    x = torch.from_numpy(instances(20)).unsqueeze(0)

    def normalised(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    layout = Layout.of(x)
    middle = x + block.attention(normalised(x), layout)
    hidden = normalised(middle) @ block.fc1.weight.T + block.fc1.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(block(x, layout), middle + gelu @ block.fc2.weight.T + block.fc2.bias, rtol=0, atol=1e-10)
