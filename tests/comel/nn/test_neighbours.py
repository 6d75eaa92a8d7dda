"""Neighbours on a slide against a search over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.bags.geometry import tile_spacing
from comel.nn.neighbours import neighbour_mean


def by_pairs(values: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return np.stack([values[np.abs(cells - cell).max(axis=1) <= 1].mean(axis=0) for cell in cells])


places = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(places, st.sampled_from([256.0, 487.6, 17.3]), st.integers(0, 2**16))
def test_the_mean_is_over_the_tiles_that_touch(cells: set[tuple[int, int]], side: float, seed: int) -> None:
    grid = np.array(sorted(cells) + [(x, 20) for x in range(12)])  # a row that shows the distance
    values = np.random.default_rng(seed).normal(size=(len(grid), 3))
    coords = np.round(grid * side).astype(np.int64) + 1000
    found = neighbour_mean(torch.from_numpy(values), torch.from_numpy(coords))
    np.testing.assert_allclose(found.numpy(), by_pairs(values, grid), rtol=0, atol=1e-12)


def test_a_rounded_stride_does_not_drift() -> None:
    index = np.arange(3000)
    coords = torch.from_numpy(np.stack([np.round(index * 487.6), np.zeros(3000)], axis=1))
    assert tile_spacing(coords.numpy()) == pytest.approx([487.6, 487.6], abs=1e-3)
    values = torch.from_numpy(index[:, None].astype(float))
    assert torch.allclose(neighbour_mean(values, coords)[1:-1], values[1:-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 511)), min_size=1, max_size=9), st.integers(0, 2**16))
def test_pieces_of_tissue_with_grids_of_their_own_keep_their_neighbours(shifts: list[tuple[int, int]], seed: int) -> None:
    """As CLAM writes them: every contour begins a grid; on whichever pixel, half a tile off included."""
    random = np.random.default_rng(seed)
    coords, expected, values = [], [], []
    for number, shift in enumerate([*shifts, (256, 256)]):
        cells = np.array([(x, y) for x in range(random.integers(3, 9)) for y in range(random.integers(3, 9))])
        own = random.normal(size=(len(cells), 2))
        coords.append(cells * 512 + np.array([number % 3, number // 3]) * 12 * 512 + shift)
        values.append(own)
        expected.append(by_pairs(own, cells))
    found = neighbour_mean(torch.from_numpy(np.concatenate(values)), torch.from_numpy(np.concatenate(coords)))
    np.testing.assert_allclose(found.numpy(), np.concatenate(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("coords", [[[5, 5]], [[0, 0], [0, 900]], [[3, 3], [3, 3]]])
def test_few_tiles(coords: list[list[int]]) -> None:
    values = torch.arange(len(coords)).double().unsqueeze(1)
    found = neighbour_mean(values, torch.tensor(coords))
    assert found.shape == values.shape
    assert torch.isfinite(found).all()


def test_nothing_moves_when_the_rows_are_shuffled() -> None:
    generator = np.random.default_rng(0)
    grid = np.array([(x, y) for x in range(6) for y in range(5)])
    values, order = generator.normal(size=(30, 2)), generator.permutation(30)
    whole = neighbour_mean(torch.from_numpy(values), torch.from_numpy(grid * 256))
    mixed = neighbour_mean(torch.from_numpy(values[order]), torch.from_numpy(grid[order] * 256))
    torch.testing.assert_close(mixed, whole[order])
