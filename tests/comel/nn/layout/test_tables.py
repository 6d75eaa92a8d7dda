"""Tables and bins against torch's interpolation and adaptive pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from comel.nn.layout.tables import bin_members, linear_weights


@pytest.mark.parametrize(("length", "size"), [(7, 8), (7, 3), (1, 5), (8, 8)])
def test_a_table_is_interpolated(length: int, size: int) -> None:
    table = torch.randn(length, dtype=torch.float64)
    places = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    expected = F.interpolate(table[None, None], size=size, mode="linear", align_corners=False)[0, 0]
    torch.testing.assert_close(linear_weights(places, length) @ table, expected)


@pytest.mark.parametrize(("size", "bins"), [(8, 3), (7, 7), (2, 5), (10, 4)])
def test_bins_are_those_of_adaptive_pooling(size: int, bins: int) -> None:
    values = torch.randn(size, dtype=torch.float64)
    members = bin_members(torch.arange(size), size, bins).double()
    expected = F.adaptive_avg_pool1d(values[None], bins)[0]
    torch.testing.assert_close((members.T @ values) / members.sum(dim=0), expected)
