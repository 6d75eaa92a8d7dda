"""Which regions lie beside, or across from, each region."""

from __future__ import annotations

import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from tests.comel.nn.mixers.seeds import bag_coords


def layout(*counts: int, placed: bool = True) -> Layout:
    mask = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
    coords = torch.zeros(len(counts), max(counts), 2, dtype=torch.int64)
    for number, count in enumerate(counts):
        coords[number, :count] = bag_coords(count, number)
    return Layout((len(counts), max(counts)), coords if placed else None, mask)


def as_sets(table: Tensor) -> list[list[int]]:
    """What each row holds, sorted; twice what it holds twice."""
    return [sorted(int(entry) for entry in row if entry >= 0) for row in table]


def test_stretches_beside_a_stretch_stay_in_the_bag() -> None:
    found = layout(10, 5, placed=False).neighbouring_regions(2, reach=1)
    assert found.tolist() == [[-1, 0, 1], [0, 1, 2], [1, 2, -1], [-1, 3, 4], [3, 4, -1]]


def test_squares_beside_a_square() -> None:
    bags = layout(40, 30)
    assert torch.equal(bags.neighbouring_regions(3, 2), bags.neighbouring_squares(3, 2))


def test_squares_of_the_same_row_or_column_and_the_same_bag() -> None:
    bags = layout(60, 1, 30)
    for side in (1, 3, (3, 1, 2)):
        cells, bag = bags.square_cells(side), bags.squares(side).bag
        crossing = (bag[:, None] == bag) & (cells[:, None] == cells).any(dim=2)
        assert as_sets(bags.crossing_squares(side)) == [row.nonzero().flatten().tolist() for row in crossing]


def test_rows_before_and_after_in_a_square_with_holes_and_in_a_stretch() -> None:
    coords = torch.tensor([[[0, 0], [0, 1], [1, 1], [3, 0], [1, 1], [2, 0]]]) * 256
    placed = Layout((1, 6), coords)
    assert placed.along_regions(2, 3).tolist() == [[6, 0, 6], [6, 1, 2], [1, 2, 6], [5, 3, 6], [1, 4, 6], [6, 5, 3]]
    listed = Layout((1, 6)).along_regions(2, 5)
    assert listed[0].tolist() == [6, 6, 0, 1, 2]
    assert listed[3].tolist() == [1, 2, 3, 6, 6]
    assert listed[4].tolist() == [6, 6, 4, 5, 6]


def test_a_number_for_each_bag() -> None:
    bags = layout(60, 1, 30)
    assert bags.per_bag(lambda count: 7) == 7
    assert bags.per_bag(lambda count: count // 2) == (30, 0, 15)
    assert bags.sides(2, 5) == (4, 2, 4)
    assert bags.sides(4, 5) == 4
