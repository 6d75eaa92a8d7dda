"""Attention on blocks of pairs against numbers from its equations and against what defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.errors import BagError
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width
from comel.nn.mixers.grat import GroupedAttention, GroupedAttentionOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed

DIM, HEADS = 12, 3


def grat(**options: Any) -> GroupedAttention:
    torch.manual_seed(0)
    return GroupedAttention(Width(DIM, HEADS), GroupedAttentionOptions(**options)).double().eval()


def looked_at(coords: Tensor, size: int, pattern: str) -> Tensor:
    """Which tiles (M, M) look at which, for blocks at most one away."""
    blocks = (coords - coords.amin(dim=0)) // 256 // size
    apart = (blocks[:, None] - blocks).abs()
    return (apart <= 1).all(dim=2) if pattern == "b" else (apart == 0).any(dim=2)


def full_weights(mixer: GroupedAttention, x: Tensor) -> Tensor:
    """Logits of plain attention, (HEADS, M, M)."""
    q, k = (linear(x).view(len(x), HEADS, -1).transpose(0, 1) for linear in (mixer.q, mixer.k))
    logits: Tensor = q @ k.mT * q.shape[-1] ** -0.5
    return logits


def dense(mixer: GroupedAttention, x: Tensor, seen: Tensor) -> Tensor:
    v = mixer.v(x).view(len(x), HEADS, -1).transpose(0, 1)
    weights = F.softmax(full_weights(mixer, x).masked_fill(~seen, -torch.inf), dim=-1)
    out: Tensor = mixer.proj((weights @ v).transpose(0, 1).flatten(1))
    return out


@pytest.mark.parametrize("pattern", ["b", "x"])
def test_equals_the_equations_on_a_bag_with_holes(pattern: str) -> None:
    seed = Seed("grat")
    q, k, v = (seed[name][0].transpose(0, 1) for name in ("q2", "k2", "v2"))
    mixer = grat(block_size=3, pattern=pattern)
    found = mixer.attend(q, k, v, Layout.of(q[None], seed["coords2"]))
    torch.testing.assert_close(found.transpose(0, 1), seed[f"y2_{pattern}"][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pattern", ["b", "x"])
@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_equals_masked_attention(pattern: str, size: int) -> None:
    mixer, x, coords = grat(block_size=size, pattern=pattern), instances(60, DIM), bag_coords(60)
    seen = looked_at(coords, size, pattern)
    assert bool(seen.all()) == (size == 64)
    torch.testing.assert_close(mixed(mixer, x, coords), dense(mixer, x, seen), rtol=1e-10, atol=1e-12)


def test_one_row_of_blocks_is_full_attention() -> None:
    mixer, x, coords = grat(block_size=2, pattern="x"), instances(24, DIM), grid_coords(2, 12)
    torch.testing.assert_close(mixed(mixer, x, coords), dense(mixer, x, torch.ones(24, 24, dtype=torch.bool)))


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_blocks_farther_off_are_not_seen(reach: int) -> None:
    mixer, x, coords = grat(block_size=2, reach=reach), instances(60, DIM), bag_coords(60)
    blocks = (coords - coords.amin(dim=0)) // 256 // 2
    other = x.clone()
    other[5] += 1
    changed = (mixed(mixer, other, coords) != mixed(mixer, x, coords)).any(dim=1)
    assert torch.equal(changed, ((blocks - blocks[5]).abs() <= reach).all(dim=1))
    assert not changed.all()


def test_stretches_of_a_list_see_those_beside_them() -> None:
    mixer, x = grat(block_size=2), instances(19, DIM)
    stretch = torch.arange(19) // 4
    torch.testing.assert_close(mixed(mixer, x), dense(mixer, x, (stretch[:, None] - stretch).abs() <= 1))


def test_a_cross_needs_coordinates() -> None:
    with pytest.raises(BagError, match="pattern 'x' of mixer 'grat' needs coordinates"):
        mixed(grat(pattern="x"), instances(19, DIM))


@pytest.mark.parametrize("pattern", ["b", "x"])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_how_much_of_full_attention_is_kept(pattern: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comel.nn.mixers.grat._PAIRS_AT_ONCE", at_once)
    mixer = grat(block_size=2, pattern=pattern)
    x = torch.stack([instances(40, DIM, seed) for seed in range(3)])
    coords = torch.stack([bag_coords(40, seed) for seed in range(3)])
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[1, 4:] = False
    mask[2] = False
    coords[1, :4] = grid_coords(2, 2)
    layout = Layout.of(x, coords, mask)
    found = mixer.kept_mass(layout.pack(x), layout)
    weights = F.softmax(full_weights(mixer, x[0]), dim=-1) * looked_at(coords[0], 2, pattern)
    expected = weights.detach().sum(dim=2).mean()
    torch.testing.assert_close(found, torch.stack([expected, torch.ones_like(expected), torch.ones_like(expected)]))
    assert 0 < float(found[0]) < 1


def test_loads_plain_attention() -> None:
    plain = make_mixer("attention", Width(DIM, HEADS)).double()
    mixer, x = grat(), instances(40, DIM)
    mixer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(mixed(mixer, x, bag_coords(40)), mixed(plain, x, bag_coords(40)))
