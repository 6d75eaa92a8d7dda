"""Bi-level routing attention against the authors' numbers and against what defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Width
from comel.nn.mixers.biformer import BiFormer, BiFormerOptions, route
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight

DIM, HEADS = 12, 3


def biformer(**options: Any) -> BiFormer:
    torch.manual_seed(0)
    return BiFormer(Width(DIM, HEADS), BiFormerOptions(**options)).double().eval()


def published(**options: Any) -> tuple[BiFormer, Seed]:
    seed = Seed("biformer")
    mixer = BiFormer(Width(16, 2), BiFormerOptions(**options)).double()
    weight, bias = seed["w/qkv_linear.weight"][:, :, 0, 0].chunk(3), seed["w/qkv_linear.bias"].chunk(3)
    for number, linear in enumerate((mixer.q, mixer.k, mixer.v)):
        set_weight(linear.weight, weight[number])
        set_weight(linear.bias, bias[number])
    assert mixer.convolution is not None
    assert mixer.convolution.bias is not None
    set_weight(mixer.convolution.weight, seed["w/lepe.weight"][:, 0])
    set_weight(mixer.convolution.bias, seed["w/lepe.bias"])
    set_weight(mixer.proj.weight, seed["w/output_linear.weight"][:, :, 0, 0])
    set_weight(mixer.proj.bias, seed["w/output_linear.bias"])
    return mixer, seed


def dense(mixer: BiFormer, x: Tensor, region: Tensor, chosen: Tensor) -> Tensor:
    """Attention of one bag through an explicit mask, without the convolution: the regions of the rows (M,), chosen (G, k)."""
    q, k, v = (linear(x).view(len(x), HEADS, -1).transpose(0, 1) for linear in (mixer.q, mixer.k, mixer.v))
    seen = (chosen[region].unsqueeze(2) == region).any(dim=1)  # (M, M)
    weights = F.softmax((q @ k.mT * DIM**-0.5).masked_fill(~seen, -torch.inf), dim=-1)
    out: Tensor = mixer.proj((weights @ v).transpose(0, 1).flatten(1))
    return out


def test_equals_the_authors_numbers_on_a_full_map() -> None:
    mixer, seed = published(region_size=4, topk=2)
    x = seed["x"][0].flatten(1).T
    found = mixed(mixer, x, grid_coords(12, 12))
    torch.testing.assert_close(found, seed["y"][0].flatten(1).T, rtol=1e-10, atol=1e-12)


def test_routes_as_the_authors_do() -> None:
    mixer, seed = published(region_size=4, topk=2)
    x = seed["x"][0].flatten(1).T
    regions = Layout.of(x[None], grid_coords(12, 12)[None]).squares(4)
    assert torch.equal(route(mixer.q(x), mixer.k(x), regions, 2), seed["r_idx"])


def test_equals_the_equations_on_a_bag_with_holes() -> None:
    mixer, seed = published(region_size=4, topk=3)
    found = mixed(mixer, seed["x3"], seed["coords3"])
    torch.testing.assert_close(found, seed["y3"], rtol=1e-10, atol=1e-12)


def test_all_regions_chosen_is_full_attention() -> None:
    mixer, x = biformer(region_size=3, topk=64, kernel=0), instances(40, DIM)
    everything = dense(mixer, x, torch.zeros(40, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    torch.testing.assert_close(mixed(mixer, x, bag_coords(40)), everything)


def test_the_scale_of_a_head() -> None:
    mixer, x = biformer(region_size=3, topk=64, kernel=0, scale="head"), instances(40, DIM)
    q, k, v = (linear(x).view(40, HEADS, -1).transpose(0, 1) for linear in (mixer.q, mixer.k, mixer.v))
    expected = mixer.proj((F.softmax(q @ k.mT / 2, dim=-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(mixed(mixer, x, bag_coords(40)), expected)


def test_one_tile_a_region_and_one_region_is_the_best_match() -> None:
    mixer, x = biformer(region_size=1, topk=1, kernel=0), instances(30, DIM)
    best = (mixer.q(x) @ mixer.k(x).T).argmax(dim=1)
    torch.testing.assert_close(mixed(mixer, x, bag_coords(30)), mixer.proj(mixer.v(x)[best]))


def test_a_tile_outside_the_chosen_regions_is_not_seen() -> None:
    mixer, x, coords = biformer(region_size=3, topk=2, kernel=0), instances(60, DIM), bag_coords(60)
    regions = Layout.of(x[None], coords[None]).squares(3)
    chosen = route(mixer.q(x), mixer.k(x), regions, 2)
    tile = int((regions.of == chosen.flatten().mode().values).nonzero()[0])  # in the region that most regions choose
    other = x.clone()
    other[tile] += 1e-6
    assert torch.equal(route(mixer.q(other), mixer.k(other), regions, 2), chosen)
    changed = (mixed(mixer, other, coords) != mixed(mixer, x, coords)).any(dim=1)
    sees = (chosen == regions.of[tile]).any(dim=1)[regions.of]
    sees[tile] = True  # its own query
    assert torch.equal(changed, sees)
    assert 1 < int(sees.sum()) < 60


@pytest.mark.parametrize("placed", [True, False])
def test_the_gradient_takes_the_routing_as_given(placed: bool) -> None:
    mixer, x, coords = biformer(region_size=3, topk=2, kernel=0), instances(60, DIM), bag_coords(60) if placed else None
    layout = Layout.of(x[None], None if coords is None else coords[None])
    regions = layout.regions(3)
    chosen = route(mixer.q(x), mixer.k(x), regions, 2)
    grads = []
    for given in (False, True):
        h = x.clone().requires_grad_(True)
        out = dense(mixer, h, regions.of, chosen) if given else mixed(mixer, h, coords)
        out.square().sum().backward()
        assert h.grad is not None
        grads.append(h.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_equal_regions_are_chosen_from_the_first() -> None:
    of = torch.arange(10) // 2
    regions = Segments(of, torch.zeros(10, dtype=torch.int64))
    same = torch.ones(10, 4)
    assert torch.equal(route(same, same, regions, 3), torch.arange(3).expand(5, 3))


def test_routing_in_slices_and_in_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    bag = torch.tensor([0] * 30 + [2] * 10)
    regions = Segments(torch.arange(40) // 2, bag)
    q, k = instances(40, DIM), instances(40, DIM, 1)
    whole = route(q, k, regions, 8)
    assert (whole[:15] < 15).all()
    assert torch.equal(whole[15:] >= 15, torch.arange(8).expand(5, 8) < 5)
    monkeypatch.setattr("comel.nn.mixers.biformer._LOGITS_AT_ONCE", 40)
    assert torch.equal(route(q, k, regions, 8), whole)


@pytest.mark.parametrize(("count", "side"), [(1, 1), (60, 2), (10_000, 4), (1_000_000, 9)])
def test_regions_grow_with_the_bag(count: int, side: int) -> None:
    mixer = biformer()
    assert mixer._side(Layout((1, count))) == side
