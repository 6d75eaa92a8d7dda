"""Core context aware attention against numbers from its equations and against what defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width
from comel.nn.mixers.cca import CoreContextAttention, CoreContextAttentionOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed

DIM, HEADS = 12, 3


def cca(**options: Any) -> CoreContextAttention:
    torch.manual_seed(0)
    return CoreContextAttention(Width(DIM, HEADS), CoreContextAttentionOptions(**options)).double().eval()


def heads(x: Tensor) -> Tensor:
    """(M, dim) -> (M, HEADS, d)."""
    return x.view(len(x), HEADS, -1)


def full(mixer: CoreContextAttention, x: Tensor) -> Tensor:
    q, k, v = (heads(linear(x)).transpose(0, 1) for linear in (mixer.q, mixer.k, mixer.v))
    out: Tensor = mixer.proj((F.softmax(q @ k.mT / 2, dim=-1) @ v).transpose(0, 1).flatten(1))
    return out


def weights(mixer: CoreContextAttention, x: Tensor, layout: Layout) -> Tensor:
    """The matrix of attention that the mixer stands for, (HEADS, M, M)."""
    every = torch.eye(len(x), dtype=x.dtype).unsqueeze(1).expand(-1, HEADS, -1)
    return mixer.attend(heads(mixer.q(x)), heads(mixer.k(x)), every, layout).transpose(0, 1)


@pytest.mark.parametrize(("asker", "y"), [("mean", "y2"), ("last", "y2_last")])
def test_equals_the_equations_on_a_bag_with_holes(asker: str, y: str) -> None:
    seed = Seed("cca")
    mixer = make_mixer("cca", Width(16, 2), {"group_size": 3, "asker": asker, "qkv_bias": False})
    assert isinstance(mixer, CoreContextAttention)
    torch.nn.init.zeros_(mixer.proj.bias)
    names = {"q.weight": "wq", "k.weight": "wk", "v.weight": "wv", "proj.weight": "wo"}
    state = {own: seed[f"w/{stored}"] for own, stored in names.items()}
    assert mixer.double().load_state_dict(state, strict=False).missing_keys == ["proj.bias"]
    torch.testing.assert_close(mixed(mixer, seed["x2"], seed["coords2"]), seed[y], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"group_size": 64}, {"group_size": 1}, {"group_size": 1, "reach": 0}, {"group_size": 4, "reach": 8}]
)
@pytest.mark.parametrize("asker", ["mean", "last"])
def test_all_near_and_cores_of_one_tile_are_full_attention(options: dict[str, int], asker: str) -> None:
    mixer, x = cca(asker=asker, **options), instances(40, DIM)
    torch.testing.assert_close(mixed(mixer, x, bag_coords(40)), full(mixer, x))


@pytest.mark.parametrize("placed", [True, False])
def test_every_tile_is_seen_once_by_itself_or_in_a_core(placed: bool) -> None:
    """With q = 0 all logits are equal: a near tile weighs one key, and the tiles of a core together weigh one."""
    mixer, x, coords = cca(group_size=2), instances(60, DIM), bag_coords(60)
    torch.nn.init.zeros_(mixer.q.weight)
    torch.nn.init.zeros_(mixer.q.bias)
    layout = Layout.of(x[None], coords[None] if placed else None)
    groups = layout.regions(2)
    if placed:
        cells = (coords - coords.amin(dim=0)) // 256 // 2
        near = ((cells[:, None] - cells).abs() <= 1).all(dim=2)
    else:
        near = (groups.of[:, None] - groups.of).abs() <= 1
    assert near.any()
    assert not near.all()
    share = torch.where(near, 1.0, 1 / groups.sizes[groups.of].double())
    keys = share.sum(dim=1, keepdim=True)
    torch.testing.assert_close(weights(mixer, x, layout), (share / keys).expand(HEADS, -1, -1))


def test_equal_values_stay_equal() -> None:
    mixer, x = cca(group_size=2), instances(40, DIM)
    q, k = heads(mixer.q(x)), heads(mixer.k(x))
    out = mixer.attend(q, k, torch.ones_like(q), Layout.of(x[None], bag_coords(40)[None]))
    torch.testing.assert_close(out, torch.ones_like(out))


@pytest.mark.parametrize("asker", ["mean", "last"])
def test_far_queries_share_a_core_out_alike(asker: str) -> None:
    mixer, x, coords = cca(group_size=2, asker=asker), instances(60, DIM), bag_coords(60)
    layout = Layout.of(x[None], coords[None])
    groups, near = layout.squares(2), layout.neighbouring_squares(2)
    found = weights(mixer, x, layout)
    for group in range(len(groups)):
        far = ~(near[groups.of] == group).any(dim=1)
        inside = found[:, far][:, :, groups.of == group]
        share = inside / inside.sum(dim=2, keepdim=True)
        torch.testing.assert_close(share, share[:, :1].expand_as(share))


def test_the_last_tile_is_last_by_its_place() -> None:
    mixer, x, coords = cca(group_size=3, reach=0, asker="last"), instances(36, DIM), grid_coords(6, 6)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed(mixer, x[order], coords[order]), mixed(mixer, x, coords)[order])
    q, k = heads(mixer.q(x)), heads(mixer.k(x))
    inside = ((coords // 256) < 3).all(dim=1)
    asked = F.softmax(torch.einsum("hd,jhd->hj", q[2 * 6 + 2], k[inside]) / 2, dim=1)
    found = weights(mixer, x, Layout.of(x[None], coords[None]))[:, 35][:, inside]
    torch.testing.assert_close(found / found.sum(dim=1, keepdim=True), asked)


def test_loads_plain_attention() -> None:
    plain = make_mixer("attention", Width(DIM, HEADS)).double()
    mixer, x = cca(), instances(10, DIM)
    mixer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(mixed(mixer, x, bag_coords(10)), mixed(plain, x, bag_coords(10)))


@pytest.mark.parametrize(("count", "side"), [(1, 1), (60, 2), (10_000, 6), (1_000_000, 18)])
def test_groups_grow_with_the_bag(count: int, side: int) -> None:
    assert cca()._side(Layout((1, count))) == side
