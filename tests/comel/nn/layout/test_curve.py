"""The place of a cell along the Hilbert curve does not depend on the cells beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comel.nn.layout.curve import hilbert_index
from comel.nn.layout.layout import Layout
from tests.comel.nn.mixers.seeds import bag_coords


@pytest.mark.parametrize("farthest", [3, 4, 7, 8, 16, 100, 70_000])
def test_the_place_depends_on_the_cell_alone(farthest: int) -> None:
    row, column = np.divmod(np.arange(9), 3)
    cells = torch.from_numpy(np.stack([column, row], axis=1))
    more = torch.cat([cells, torch.tensor([[farthest, farthest - 1]])])
    assert hilbert_index(more)[:9].tolist() == hilbert_index(cells).tolist()


def test_a_bag_has_its_own_curve_in_a_batch() -> None:
    coords = torch.stack([bag_coords(12), bag_coords(12, 1) * 7])
    coords[1, :, 0] *= 3
    together = Layout((2, 12), coords).curve()
    for b in range(2):
        assert (together[12 * b : 12 * b + 12] - 12 * b).tolist() == Layout((1, 12), coords[b : b + 1]).curve().tolist()
