"""Surroundings and pieces against a search over all pairs."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.nn.neighbours import neighbour_mean
from comel.nn.places import Places

cells = st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=50)


def grid_of(chosen: set[tuple[int, int]]) -> np.ndarray:
    """The cells, with a row that shows the distance of tiles, in another order."""
    grid = np.array(sorted(chosen) + [(x, 20) for x in range(9)])
    return np.asarray(np.random.default_rng(len(grid)).permutation(grid))


@settings(max_examples=40, deadline=None)
@given(cells, st.integers(0, 2**16))
def test_sums_and_means(chosen: set[tuple[int, int]], seed: int) -> None:
    grid = grid_of(chosen)
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(grid), 3)))
    coords = torch.from_numpy(grid * 256 + 77)
    places = Places(coords, (1, 3))
    assert len(places) == len(grid)
    for radius in (1, 3):
        total, number = places.around(values, radius)
        near = np.abs(grid[:, None] - grid[None]).max(axis=2) <= radius
        np.fill_diagonal(near, False)
        np.testing.assert_allclose(total.numpy(), near @ values.numpy(), rtol=0, atol=1e-12)
        assert number.tolist() == near.sum(axis=1).tolist()
    torch.testing.assert_close(places.mean(values), neighbour_mean(values, coords), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(cells, st.integers(0, 2**16))
def test_pieces(chosen: set[tuple[int, int]], seed: int) -> None:
    from scipy.ndimage import label

    grid = grid_of(chosen)
    selected = np.random.default_rng(seed).random((len(grid), 4)) < [0.5, 0.9, 0.0, 1.0]
    found = Places(torch.from_numpy(grid * 256), (1,)).pieces(torch.from_numpy(selected))
    for column, sizes in zip(selected.T, found, strict=True):
        plane = np.zeros((30, 30), bool)
        plane[grid[column, 1], grid[column, 0]] = True
        pieces = np.bincount(label(plane, np.ones((3, 3)))[0].ravel())[1:]
        assert sizes.tolist() == sorted(pieces, reverse=True)


def test_tiles_in_one_cell_see_each_other() -> None:
    corners = [(0, 0), (0, 0), (1, 1), *((x, 9) for x in range(5))]
    places = Places(torch.tensor(corners) * 256, (1,))
    total, number = places.around(torch.tensor([[1.0], [10.0], [100.0], *[[0.0]] * 5]), 1)
    assert total[:3].tolist() == [[110.0], [101.0], [11.0]]
    assert number[:3].tolist() == [2, 2, 2]
    assert places.pieces(torch.tensor([[True]] * 3 + [[False]] * 5))[0].tolist() == [3]
