"""Convolutions by window against the double sum they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout import windows
from comel.nn.layout.layout import Layout
from comel.nn.layout.windows import convolve, halo
from tests.comel.nn.mixers.seeds import bag_coords, grid_coords, instances


def double_sum(x: Tensor, cells: Tensor, kernel: Tensor, centre: tuple[int, int]) -> Tensor:
    """``sum_q kernel[p - q + centre] x_q`` with a table of all pairs."""
    place = (cells[:, None] - cells[None]).flip(-1) + torch.tensor(centre)  # (N, N, 2) rows first
    size = torch.tensor(kernel.shape[1:])
    inside = ((place >= 0) & (place < size)).all(dim=-1)
    place = torch.minimum(place.clamp_min(0), size - 1)
    return torch.einsum("cpq,qc->pc", kernel[:, place[..., 0], place[..., 1]] * inside, x)


@pytest.mark.parametrize("centre", [(0, 0), (3, 1), (6, 8)])
@pytest.mark.parametrize("count", [1, 2, 60, 900])
@pytest.mark.parametrize("at_once", [1, 1 << 18])
def test_equals_the_double_sum(monkeypatch: pytest.MonkeyPatch, count: int, centre: tuple[int, int], at_once: int) -> None:
    monkeypatch.setattr(windows, "_VALUES_AT_ONCE", {"cpu": at_once})
    monkeypatch.setattr(windows, "_CHANNELS_AT_ONCE", 2)
    x, coords = instances(count, 3), bag_coords(count)
    kernel = instances(3 * 7, 9, seed=1).view(3, 7, 9)
    layout = Layout.of(x[None], coords[None])
    expected = double_sum(x, layout.cells, kernel, centre)
    torch.testing.assert_close(convolve(x, layout, kernel, centre), expected, rtol=0, atol=1e-11)


def test_a_slide_wider_than_any_window_and_two_bags() -> None:
    x, coords = instances(80, 2), torch.stack([bag_coords(40), bag_coords(40, 1)])
    coords[0, 20:] += 256 * 300_000  # two pieces: a box of 10^11 cells
    kernel = instances(2 * 5, 5, seed=1).view(2, 5, 5)
    layout = Layout((2, 40), coords)
    expected = torch.cat([double_sum(x[part], layout.cells[part], kernel, (2, 2)) for part in (slice(40), slice(40, 80))])
    torch.testing.assert_close(convolve(x, layout, kernel, (2, 2)), expected, rtol=0, atol=1e-11)


def test_a_larger_kernel_costs_a_small_slide_nothing() -> None:
    layout = Layout((1, 20), bag_coords(20)[None])
    kernel, centre = windows._within(torch.zeros(1, 255, 255), (127, 127), int(layout.box.max()))
    assert kernel.shape[1] == 2 * int(layout.box.max()) - 1
    assert centre[0] == int(layout.box.max()) - 1


def test_a_halo_holds_what_lies_around_a_square() -> None:
    layout = Layout((1, 35), grid_coords(5, 7)[None])
    around = halo(layout, 2, before=(1, 0), after=(0, 3))
    last = around.rows[around.ends[-2] :]  # around the square of row 4 and column 6
    assert sorted(last.tolist()) == [3 * 7 + 6, 4 * 7 + 6]
    assert sorted(around.rows[: around.ends[0]].tolist()) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert around.cells.amin(dim=0).tolist() == [0, 0]
    assert around.cells.amax(dim=0).tolist() == [4, 2]


def test_gradients_are_those_of_the_double_sum() -> None:
    x, kernel = instances(30, 2).requires_grad_(True), instances(2 * 3, 3, seed=1).view(2, 3, 3).requires_grad_(True)
    layout = Layout.of(x[None], bag_coords(30)[None])
    weights = instances(30, 2, seed=2)
    found = torch.autograd.grad((convolve(x, layout, kernel, (1, 1)) * weights).sum(), [x, kernel])
    expected = torch.autograd.grad((double_sum(x, layout.cells, kernel, (1, 1)) * weights).sum(), [x, kernel])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_half_precision_is_computed_in_single() -> None:
    x = instances(30, 2).bfloat16()
    layout = Layout.of(x[None], bag_coords(30)[None])
    kernel = instances(2 * 3, 3, seed=1).view(2, 3, 3)
    out = convolve(x, layout, kernel, (1, 1))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, convolve(x.float(), layout, kernel, (1, 1)).bfloat16())
