"""Slices of rows against all rows at once."""

from __future__ import annotations

import torch

from comel.nn.layout.slices import in_slices
from tests.comel.nn.mixers.seeds import instances


def test_slices_give_what_all_rows_at_once_give() -> None:
    layer, x, sizes = torch.nn.Linear(4, 6).double(), instances(23, 4), []

    def change(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        out: torch.Tensor = layer(rows)
        return out

    with torch.no_grad():
        found = in_slices(change, x, rows_at_once=10)
    assert sizes == [10, 10, 3]
    torch.testing.assert_close(found, layer(x), rtol=0, atol=1e-13)
    assert in_slices(change, x, rows_at_once=10).requires_grad
    assert sizes[3:] == [23]
