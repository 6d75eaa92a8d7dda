"""Convolutions over tiles against torch's on a canvas with holes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from comel.errors import BagError
from comel.nn.layout import convolution
from comel.nn.layout.convolution import SparseDepthwise, depthwise
from comel.nn.layout.layout import Layout
from tests.comel.nn.mixers.seeds import bag_coords, instances


def bag() -> tuple[torch.Tensor, Layout, torch.Tensor]:
    """Instances, their layout, and the canvas that holds them."""
    coords = bag_coords(30)
    layout, x = Layout((1, 30), coords.unsqueeze(0)), instances(30, 6)
    width, height = layout.box[0].tolist()
    canvas = torch.zeros(6, height, width, dtype=torch.float64)
    canvas[:, layout.cells[:, 1], layout.cells[:, 0]] = x.T
    return x, layout, canvas


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise(side: int, bias: bool) -> None:
    x, layout, canvas = bag()
    convolution = SparseDepthwise(6, side, bias).double()
    dense = F.conv2d(canvas, convolution.weight.unsqueeze(1), convolution.bias, padding=side // 2, groups=6)
    torch.testing.assert_close(convolution(x, layout), dense[:, layout.cells[:, 1], layout.cells[:, 0]].T)
    with pytest.raises(BagError, match="needs coordinates"):
        convolution(x, Layout((1, 30)))


@pytest.mark.parametrize("learning", [True, False])
def test_half_precision_with_weights_in_single(learning: bool) -> None:
    x, weight = instances(40, 6).bfloat16(), torch.ones(6, 3, 3)
    layout = Layout.of(x[None], bag_coords(40)[None])
    with torch.set_grad_enabled(learning):
        found = depthwise(x, weight, layout)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, depthwise(x.float(), weight, layout))


def test_no_tile_at_all() -> None:
    x = torch.zeros(1, 0, 6)
    with torch.no_grad():
        assert depthwise(x[0], torch.ones(6, 3, 3), Layout.of(x, torch.zeros(1, 0, 2, dtype=torch.int64))).shape == (0, 6)


@pytest.mark.parametrize("at_once", [1 << 18, 30])
def test_gradients_are_those_of_a_sum_over_the_cells(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_VALUES_ON_CPU", at_once)
    layout = Layout((1, 12), bag_coords(12)[None])
    x, weight = instances(12, 2).requires_grad_(True), instances(2, 9, 1).view(2, 3, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda rows, taps: depthwise(rows, taps, layout), (x, weight))
