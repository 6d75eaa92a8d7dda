"""The gradient of a convolution over tiles, and its slices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout import convolution
from comel.nn.layout.convolution import SparseDepthwise, depthwise, dynamic_depthwise
from comel.nn.layout.layout import Layout
from tests.comel.nn.mixers.seeds import bag_coords, instances


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
    convolution = SparseDepthwise(6, 3, bias).double()
    some = slice(2, 5)
    torch.testing.assert_close(convolution(x[:, some], layout, some), convolution(x, layout)[:, some])
