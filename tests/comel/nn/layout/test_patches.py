"""Overlapping squares against a plain loop."""

from __future__ import annotations

import pytest
import torch

from comel.nn.layout.layout import Layout
from comel.nn.layout.patches import overlapping_squares
from tests.comel.nn.mixers.seeds import bag_coords


@pytest.mark.parametrize(("side", "overlap"), [(4, 2), (4, 0), (3, 2), (5, 1), (40, 2), (1, 0)])
def test_overlapping_squares(side: int, overlap: int) -> None:
    coords = torch.stack([bag_coords(50), bag_coords(50, 1) // 2])
    layout = Layout((2, 50), coords)
    rows, squares = overlapping_squares(layout, side, overlap)
    found = {(int(layout.bag[members[0]]), tuple(sorted(members.tolist()))) for members in by_square(rows, squares.of)}
    expected = set()
    for bag in range(2):
        starts = []
        for size in layout.box[bag].tolist():
            of_axis = list(range(0, max(size - side, 0), side - overlap))
            starts.append([*of_axis, max(size - side, 0)])
        for left in starts[0]:
            for top in starts[1]:
                inside = (layout.cells >= torch.tensor([left, top])) & (layout.cells < torch.tensor([left, top]) + side)
                members = (inside.all(dim=1) & (layout.bag == bag)).nonzero().flatten().tolist()
                if members:
                    expected.add((bag, tuple(members)))
    assert found == expected
    assert len(torch.stack([rows, squares.of]).unique(dim=1).T) == len(rows)


def by_square(rows: torch.Tensor, of: torch.Tensor) -> list[torch.Tensor]:
    return [rows[of == number] for number in of.unique()]
