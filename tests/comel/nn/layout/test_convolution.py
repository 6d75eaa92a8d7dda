"""Convolutions over tiles against torch's on a canvas with holes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from comel.errors import BagError
from comel.nn.layout import grid
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.grid import filter_box
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


@pytest.mark.parametrize("at_once", [1 << 22, 1])
def test_a_filter_as_wide_as_the_slide(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_VALUES_AT_ONCE", at_once)
    x, layout, canvas = bag()
    kernel = torch.randn(6, 3, 4, dtype=torch.float64)  # at lags 0, 1, ... down and to the right

    def spectrum(size: tuple[int, int], transform: tuple[int, int], channels: slice) -> torch.Tensor:
        assert size == canvas.shape[1:]
        found: torch.Tensor = torch.fft.rfft2(kernel[channels], s=transform)
        return found

    padded = F.pad(canvas, (3, 0, 2, 0))
    expected = F.conv2d(padded, kernel.flip(1, 2).unsqueeze(1), groups=6)
    torch.testing.assert_close(filter_box(x, layout, spectrum), expected[:, layout.cells[:, 1], layout.cells[:, 0]].T)
