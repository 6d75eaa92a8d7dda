"""Regional and cross-regional attention against the layers of the model RRT-MIL, which work on padded regions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from comel.models.rrt_mil import CrossRegionAttention, RegionAttention
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.region import RegionReembedding, RegionReembeddingOptions
from tests.comel.nn.mixers.seeds import bag_coords, grid_coords, instances, mixed, set_weight

DIM, HEADS = 12, 3


def region(**options: Any) -> RegionReembedding:
    torch.manual_seed(0)
    return RegionReembedding(Width(DIM, HEADS), RegionReembeddingOptions(**options)).double().eval()


def copy_linears(own: nn.Module, other: nn.Module) -> None:
    for name in ("q", "k", "v", "proj"):
        getattr(other, name).load_state_dict(getattr(own, name).state_dict())


def by_the_model(mixer: RegionReembedding, x: Tensor, of: Tensor, place: Tensor) -> Tensor:
    """One bag (M, dim) with the region (M,) of each tile, and its place in there (M,)."""
    options = mixer.options
    within = RegionAttention(DIM, HEADS, options.position_kernel).double()
    across = CrossRegionAttention(DIM, HEADS, options.representatives).double()
    copy_linears(mixer.within, within)
    copy_linears(mixer.across, across.attention)
    assert within.positions is not None
    assert mixer.within.positions is not None
    set_weight(within.positions.kernels.weight, mixer.within.positions[:, None, :, None])
    set_weight(across.phi.weight, mixer.phi.weight)
    shape = (int(of.max()) + 1, options.region_size**2)
    real = torch.zeros(shape, dtype=torch.bool).index_put((of, place), torch.tensor(True))
    tokens = x.new_zeros(*shape, DIM).index_put((of, place), x)
    tokens = tokens + within(mixer.norm1(tokens), real)
    tokens = tokens + across(mixer.norm2(tokens), real)
    out: Tensor = tokens[of, place]
    return out


@pytest.mark.parametrize("options", [{}, {"position_kernel": 1}, {"position_kernel": 31}, {"representatives": 1}])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_equals_the_model_on_squares_with_holes(options: dict[str, int], size: int) -> None:
    mixer, x, coords = region(region_size=size, **options), instances(60, DIM), bag_coords(60)
    layout = Layout.of(x[None], coords[None])
    expected = by_the_model(mixer, x, layout.squares(size).of, layout.place_in_square(size))
    torch.testing.assert_close(mixed(mixer, x, coords), expected)


def test_equals_the_model_on_stretches_of_a_list() -> None:
    mixer, x, index = region(region_size=3), instances(50, DIM), torch.arange(50)
    torch.testing.assert_close(mixed(mixer, x), by_the_model(mixer, x, index // 9, index % 9))


def test_positions_run_over_the_cells_and_not_over_the_list() -> None:
    mixer, x, coords = region(region_size=3), instances(36, DIM), grid_coords(6, 6)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed(mixer, x[order], coords[order]), mixed(mixer, x, coords)[order])
    turned = coords.flip(1)  # the same neighbours, in another order
    assert (mixed(mixer, x, turned) - mixed(mixer, x, coords)).abs().max() > 1e-3


def test_a_tile_alone_in_its_region_gets_nothing_from_the_others() -> None:
    mixer, x = region(region_size=2), instances(5, DIM)
    coords = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [9, 9]])
    other = x.clone()
    other[0] += 1
    changed = (mixed(mixer, other, coords) != mixed(mixer, x, coords)).any(dim=1)
    assert changed.tolist() == [True, True, True, True, False]


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValidationError, match="give an odd number"):
        region(position_kernel=4)
