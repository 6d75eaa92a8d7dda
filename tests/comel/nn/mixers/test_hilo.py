"""HiLo attention against the authors' numbers and against what defines it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width
from comel.nn.mixers.hilo import HiLo, HiLoOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed


@pytest.mark.parametrize(("x", "y", "height", "width"), [("x", "y", 6, 9), ("x2", "y3", 5, 7)])
def test_equals_the_authors_numbers(x: str, y: str, height: int, width: int) -> None:
    seed = Seed("hilo")
    mixer = make_mixer("hilo", Width(32, 4), {"window": 3, "window_low": 3})
    seed.load(mixer, {name: name for name in seed.names()})
    coords = grid_coords(height, width).expand(2, -1, -1)
    torch.testing.assert_close(mixed(mixer, seed[x], coords), seed[y], rtol=1e-10, atol=1e-12)


def test_windows_of_one_tile_are_plain_attention() -> None:
    mixer = make_mixer("hilo", Width(12, 3), {"window": 1}).double()
    assert isinstance(mixer, HiLo)
    x = instances(20, 12)
    q = mixer.l_q(x).view(20, 3, 4).transpose(0, 1)
    k, v = (part.view(20, 3, 4).transpose(0, 1) for part in mixer.l_kv(x).chunk(2, dim=-1))
    expected = mixer.l_proj((F.softmax(q @ k.mT / 2, dim=-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(mixed(mixer, x, bag_coords(20)), expected)


def test_the_first_channels_see_their_window_alone() -> None:
    mixer = make_mixer("hilo", Width(12, 4), {"window": 3}).double()
    x, coords = instances(30, 12), bag_coords(30)
    other = x.clone()
    other[5] += 1
    changed = (mixed(mixer, other, coords) - mixed(mixer, x, coords)).abs() > 1e-12
    cells = (coords - coords.amin(dim=0)) // 256 // 3
    same_window = (cells == cells[5]).all(dim=1)
    assert not changed[~same_window, :6].any()
    assert changed[:, 6:].any(dim=1).all()


@pytest.mark.parametrize(("share", "absent"), [(0.0, "l_"), (1.0, "h_")])
def test_one_kind_alone_has_no_parameters_of_the_other(share: float, absent: str) -> None:
    mixer = make_mixer("hilo", Width(12, 4), {"low_share": share})
    assert not [name for name, _ in mixer.named_parameters() if name.startswith(absent)]


@pytest.mark.parametrize(("heads", "share", "low"), [(12, 0.2, 2), (12, 0.4, 4), (12, 0.7, 8), (12, 0.9, 10)])
def test_heads_are_shared_out_as_published(heads: int, share: float, low: int) -> None:
    assert HiLo(Width(24, heads), HiLoOptions(low_share=share)).low_heads == low


def test_a_kind_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves one kind without a head"):
        make_mixer("hilo", Width(12, 1), {"low_share": 0.9})
