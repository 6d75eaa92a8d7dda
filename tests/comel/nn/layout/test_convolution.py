"""Convolutions over tiles against torch's on a canvas with holes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.errors import BagError
from comel.nn.layout import convolution
from comel.nn.layout.convolution import SparseDepthwise, depthwise, dynamic_depthwise
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


def plain(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """All neighbours at once, in operations that autograd knows."""
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return (padded[layout.neighbours(weight.shape[-1])] * weight.flatten(1).T).sum(dim=1)


@pytest.mark.parametrize("values", [1, 40, 1 << 18])
def test_values_and_gradients_in_slices(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_VALUES_ON_CPU", values)
    coords = bag_coords(30)
    coords[7] = coords[3]  # two tiles in one cell
    layout = Layout((1, 30), coords.unsqueeze(0))
    found: list[Tensor | None] = []
    expected: list[Tensor | None] = []
    for of, results in ((depthwise, found), (plain, expected)):
        x, weight = instances(30, 6).requires_grad_(True), instances(6, 9, 1).view(6, 3, 3).requires_grad_(True)
        out = of(x, weight, layout)
        (out * instances(30, 6, 2)).sum().backward()
        results += [out, x.grad, weight.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("values", [1, 40, 1 << 18])
def test_kernels_of_each_tile_in_slices(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_VALUES_ON_CPU", values)
    coords = bag_coords(30)
    coords[7] = coords[3]
    layout = Layout((1, 30), coords.unsqueeze(0))

    def plainly(x: Tensor, kernels: Tensor, layout: Layout) -> Tensor:
        near = torch.cat([x, x.new_zeros(1, 6)])[layout.neighbours(3)].view(30, 9, 2, 3)
        return torch.einsum("ntgc,ngt->ngc", near, kernels).flatten(1)

    found: list[Tensor | None] = []
    expected: list[Tensor | None] = []
    for of, results in ((dynamic_depthwise, found), (plainly, expected)):
        x, kernels = instances(30, 6).requires_grad_(True), instances(30, 18, 1).view(30, 2, 9).requires_grad_(True)
        out = of(x, kernels, layout)
        (out * instances(30, 6, 2)).sum().backward()
        results += [out, x.grad, kernels.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_weights_get_no_gradient_and_types_are_kept() -> None:
    layout = Layout((1, 30), bag_coords(30).unsqueeze(0))
    x, weight = instances(30, 6).bfloat16().requires_grad_(True), torch.randn(6, 3, 3)
    out = depthwise(x, weight, layout)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert weight.grad is None


@pytest.mark.parametrize("bias", [True, False])
def test_some_channels_alone(bias: bool) -> None:
    layout, x = Layout((1, 30), bag_coords(30).unsqueeze(0)), instances(30, 6)
    module = SparseDepthwise(6, 3, bias).double()
    some = slice(2, 5)
    torch.testing.assert_close(module(x[:, some], layout, some), module(x, layout)[:, some])
