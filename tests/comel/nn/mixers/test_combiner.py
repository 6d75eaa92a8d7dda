"""Combiner against numbers from its equations and against what defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Width
from comel.nn.mixers.combiner import Combiner, CombinerOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, mixed, set_weight

DIM, HEADS = 12, 3


def combiner(**options: Any) -> Combiner:
    torch.manual_seed(0)
    return Combiner(Width(DIM, HEADS), CombinerOptions(**options)).double().eval()


def published(**options: Any) -> tuple[Combiner, Seed]:
    seed = Seed("combiner")
    mixer = Combiner(Width(16, 2), CombinerOptions(**options)).double()
    for name in ("q", "k", "v"):
        linear = getattr(mixer, name)
        set_weight(linear.weight, seed[f"w/{name}.weight"].flatten(1).T)
        set_weight(linear.bias, seed[f"w/{name}.bias"].flatten())
    set_weight(mixer.proj.weight, seed["w/out.weight"].flatten(0, 1).T)
    set_weight(mixer.proj.bias, seed["w/out.bias"])
    return mixer, seed


def heads(mixer: Combiner, x: Tensor) -> tuple[Tensor, Tensor]:
    """q and k of one bag (M, dim) -> (M, heads, d)."""
    q, k = (linear(x).view(len(x), mixer.width.heads, -1) for linear in (mixer.q, mixer.k))
    return q, k


def weights(mixer: Combiner, x: Tensor, groups: Segments) -> Tensor:
    """The matrix of attention that the mixer stands for, (heads, M, M)."""
    q, k = heads(mixer, x)
    every = torch.eye(len(x), dtype=x.dtype).unsqueeze(1).expand(-1, mixer.width.heads, -1)
    return mixer.attend_groups(q, k, every, groups).transpose(0, 1)


def full(mixer: Combiner, x: Tensor) -> Tensor:
    q, k, v = (linear(x).view(len(x), HEADS, -1).transpose(0, 1) for linear in (mixer.q, mixer.k, mixer.v))
    attended = F.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v
    out: Tensor = mixer.proj(attended.transpose(0, 1).flatten(1))
    return out


def test_equals_the_equations_on_a_list() -> None:
    mixer, seed = published()
    x = seed["x"]
    for bag in range(2):
        groups = Segments(torch.arange(24) // 6, torch.zeros(24, dtype=torch.int64))
        q, k, v = (linear(x[bag]).view(24, 2, 8) for linear in (mixer.q, mixer.k, mixer.v))
        found = mixer.proj(mixer.attend_groups(q, k, v, groups).flatten(1))
        torch.testing.assert_close(found, seed["y"][bag], rtol=1e-10, atol=1e-12)


def test_equals_the_equations_on_a_bag_with_holes() -> None:
    mixer, seed = published(group_size=4)
    found = mixed(mixer, seed["x2"], seed["coords2"])
    torch.testing.assert_close(found, seed["y2"], rtol=1e-10, atol=1e-12)


def test_the_attention_it_stands_for() -> None:
    mixer, seed = published(group_size=4)
    x = seed["x2"][0]
    found = weights(mixer, x, Layout.of(x[None], seed["coords2"]).squares(4))
    torch.testing.assert_close(found, seed["out_attention2"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.sum(dim=2), torch.ones(2, 45, dtype=torch.float64))
    assert (found > 0).all()


@pytest.mark.parametrize("size", [1, 64])
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_one_group_and_groups_of_one_tile_are_full_attention(size: int, pooling: str) -> None:
    mixer, x = combiner(group_size=size, pooling=pooling), instances(40, DIM)
    torch.testing.assert_close(mixed(mixer, x, bag_coords(40)), full(mixer, x))


def test_relu_before_the_maximum() -> None:
    mixer, x = combiner(group_size=1, pooling="relu-max"), instances(5, DIM)
    found = weights(mixer, x, Layout.of(x[None], bag_coords(5)[None]).squares(1))
    q, k = heads(mixer, x)
    logits = torch.einsum("ihd,jhd->hij", q, k.clamp_min(0)) / 2
    own = torch.einsum("ihd,ihd->hi", q, k) / 2
    logits = logits.diagonal_scatter(own, dim1=1, dim2=2)
    torch.testing.assert_close(found, F.softmax(logits, dim=-1))


def test_equal_values_stay_equal() -> None:
    mixer = combiner(group_size=3)
    x = instances(40, DIM)
    q, k = heads(mixer, x)
    out = mixer.attend_groups(q, k, torch.ones_like(q), Layout.of(x[None], bag_coords(40)[None]).squares(3))
    torch.testing.assert_close(out, torch.ones_like(out))


@pytest.mark.parametrize("pooling", ["max", "relu-max", "mean"])
def test_a_group_is_shared_out_alike_to_all_others(pooling: str) -> None:
    mixer, x = combiner(group_size=3, pooling=pooling), instances(40, DIM)
    groups = Layout.of(x[None], bag_coords(40)[None]).squares(3)
    found = weights(mixer, x, groups)
    for group in range(len(groups)):
        inside = found[:, groups.of != group][:, :, groups.of == group]
        share = inside / inside.sum(dim=2, keepdim=True)
        torch.testing.assert_close(share, share[:, :1].expand_as(share))


def test_every_tile_reaches_every_tile() -> None:
    mixer, coords = combiner(group_size=3), bag_coords(30)
    x = instances(30, DIM)
    jacobian = torch.autograd.functional.jacobian(lambda h: mixed(mixer, h, coords), x)
    assert (jacobian.abs().sum(dim=(1, 3)) > 0).all()


def test_summaries_of_other_bags_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    sdpa = F.scaled_dot_product_attention

    def watch(q: Tensor, k: Tensor, *rest: Any, **options: Any) -> Tensor:
        widths.append(k.shape[2])
        return sdpa(q, k, *rest, **options)

    mixer, x = combiner(group_size=2), instances(48, DIM).view(3, 16, DIM)
    coords = torch.stack([bag_coords(16)] * 3)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    mixed(mixer, x[0], coords[0])
    alone = max(widths)
    mixed(mixer, x, coords)
    assert max(widths) == alone


@pytest.mark.parametrize(("count", "side"), [(1, 1), (60, 3), (10_000, 10), (1_000_000, 32)])
def test_groups_grow_with_the_bag(count: int, side: int) -> None:
    assert combiner()._side(Layout((1, count))) == side
