"""Depthwise convolution over a slide's tiles against a convolution of the full map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from comel.nn.layout import convolution
from comel.nn.layout.convolution import depthwise
from comel.nn.layout.layout import Layout
from tests.comel.nn.mixers.seeds import bag_coords, instances


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("learning", [True, False])
def test_equals_the_convolution_of_a_map_with_zeros_in_holes(
    side: int, learning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_ROWS_AT_ONCE", 7)
    x, coords, weight = instances(40, 6), bag_coords(40), instances(6, side * side, 1).view(6, side, side)
    layout = Layout.of(x[None], coords[None])
    column, row = layout.cells.T
    full = torch.zeros(6, int(row.max()) + 1, int(column.max()) + 1, dtype=torch.float64)
    full[:, row, column] = x.T
    expected = F.conv2d(full[None], weight[:, None], padding=side // 2, groups=6)[0, :, row, column].T
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(depthwise(x, weight, layout), expected)


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
