"""The layout of a batch against cells looked up one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.errors import BagError
from comel.nn.layout.curve import hilbert_index
from comel.nn.layout.layout import Layout
from tests.comel.nn.mixers.seeds import bag_coords

COUNTS = (12, 1, 30)


def batch() -> tuple[Layout, list[list[tuple[int, int]]]]:
    """Three bags of different sizes in one layout, and their cells."""
    coords = torch.zeros(3, 40, 2, dtype=torch.int64)
    mask = torch.zeros(3, 40, dtype=torch.bool)
    for b, count in enumerate(COUNTS):
        coords[b, :count], mask[b, :count] = bag_coords(count, b), True
    cells = []
    for b, count in enumerate(COUNTS):
        own = coords[b, :count] // 256
        own = own - own.amin(dim=0)
        cells.append([(int(x), int(y)) for x, y in own])
    return Layout((3, 40), coords, mask), cells


def flat() -> tuple[Layout, list[tuple[int, int, int]]]:
    layout, cells = batch()
    return layout, [(b, x, y) for b, bag in enumerate(cells) for x, y in bag]


def same_partition(of: torch.Tensor, names: list[object]) -> bool:
    pairs = set(zip(of.tolist(), names, strict=True))
    return len(pairs) == len(set(of.tolist())) == len(set(names))


def test_rows_are_packed_and_unpacked() -> None:
    layout, tiles = flat()
    x = torch.arange(120.0).view(3, 40)
    assert layout.pack(x).tolist() == [*range(12), 40, *range(80, 110)]
    again = layout.unpack(layout.pack(x))
    assert again[0, :12].tolist() == list(range(12))
    assert (again[1, 1:] == 0).all()
    assert layout.bag.tolist() == [b for b, _, _ in tiles]
    assert layout.counts.tolist() == list(COUNTS)
    assert [tuple(cell) for cell in layout.cells.tolist()] == [(x, y) for _, x, y in tiles]


@pytest.mark.parametrize("side", [3, 5])
def test_neighbours(side: int) -> None:
    layout, tiles = flat()
    at = {tile: row for row, tile in enumerate(tiles)}
    reach = side // 2
    for row, (b, x, y) in enumerate(tiles):
        around = [(b, x + dx, y + dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
        assert layout.neighbours(side)[row].tolist() == [at.get(cell, len(tiles)) for cell in around]


@pytest.mark.parametrize("side", [2, 3, (2, 4, 3)])
def test_squares_and_their_neighbours(side: int | tuple[int, ...]) -> None:
    layout, tiles = flat()
    of = (side,) * 3 if isinstance(side, int) else side
    names = [(b, x // of[b], y // of[b]) for b, x, y in tiles]
    squares = layout.squares(side)
    assert same_partition(squares.of, list(names))
    assert layout.place_in_square(side).tolist() == [(y % of[b]) * of[b] + x % of[b] for b, x, y in tiles]
    name_of = {int(number): name for number, name in zip(squares.of, names, strict=True)}
    for number, near in enumerate(layout.neighbouring_squares(side).tolist()):
        b, x, y = name_of[number]
        assert layout.square_cells(side)[number].tolist() == [x, y]
        expected = [(b, x + dx, y + dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        assert [name_of.get(n) for n in near] == [name if name in name_of.values() else None for name in expected]


def test_strides_lines_bins_and_runs() -> None:
    layout, tiles = flat()
    assert same_partition(layout.strided(3).of, [(b, x % 3, y % 3) for b, x, y in tiles])
    assert same_partition(layout.lines(0).of, [(b, y) for b, _, y in tiles])
    assert same_partition(layout.lines(1).of, [(b, x) for b, x, _ in tiles])
    box = layout.box.tolist()
    assert same_partition(layout.bins(2, 3).of, [(b, x * 2 // box[b][0], y * 3 // box[b][1]) for b, x, y in tiles])
    place = layout.place_in_list.tolist()
    assert place == [*range(12), 0, *range(30)]
    assert same_partition(layout.runs(5).of, [(b, p // 5) for (b, _, _), p in zip(tiles, place, strict=True)])
    assert same_partition(
        layout.runs((5, 2, 3)).of, [(b, p // (5, 2, 3)[b]) for (b, _, _), p in zip(tiles, place, strict=True)]
    )
    assert same_partition(layout.strided_runs(5).of, [(b, p % 5) for (b, _, _), p in zip(tiles, place, strict=True)])


@pytest.mark.parametrize("axis", [0, 1])
def test_stretches_end_at_holes(axis: int) -> None:
    layout, tiles = flat()
    order = layout.along(axis).tolist()
    assert [tiles[row] for row in order] == sorted(tiles, key=lambda tile: (tile[0], tile[2 - axis], tile[1 + axis]))
    names: dict[int, int] = {}
    for row in order:
        b, x, y = tiles[row]
        before = (b, x - 1, y) if axis == 0 else (b, x, y - 1)
        names[row] = names[tiles.index(before)] if before in tiles else row
    assert same_partition(layout.stretches(axis).of, [names[row] for row in range(len(tiles))])


def test_a_bag_is_laid_out_as_it_is_alone() -> None:
    layout, _ = flat()
    alone = Layout((1, 30), bag_coords(30, 2).unsqueeze(0))
    rows = layout.bag == 2
    assert torch.equal(layout.cells[rows], alone.cells)
    assert torch.equal(layout.relative()[rows], alone.relative())
    assert (layout.curve()[13:] - 13).tolist() == alone.curve().tolist()
    assert layout.sides(2, 3) == (2, 2, 4)
    assert alone.sides(2, 3) == 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5))
def test_the_curve_goes_from_cell_to_cell_beside_it(power: int) -> None:
    side = 2**power
    row, column = np.divmod(np.arange(side * side), side)
    cells = torch.from_numpy(np.stack([column, row], axis=1))
    index = hilbert_index(cells)
    assert sorted(index.tolist()) == list(range(side * side))
    steps = cells[index.argsort()].diff(dim=0).abs().sum(dim=1)
    assert (steps == 1).all()


def test_places_are_refused_where_there_are_none() -> None:
    layout = Layout((1, 4))
    assert not layout.placed
    assert layout.regions(2).number == 1
    assert layout.curve().tolist() == [0, 1, 2, 3]
    with pytest.raises(BagError, match="needs coordinates"):
        layout.neighbours(3)


def test_what_was_found_under_inference_serves_a_gradient() -> None:
    x = torch.randn(1, 12, 4, requires_grad=True)
    with torch.inference_mode():
        layout = Layout((1, 12), bag_coords(12).unsqueeze(0))
        layout.squares(2)
    layout.squares(2).mean(x[0]).sum().backward()
    assert x.grad is not None
