"""DaViT's dual attention against the authors' numbers and against what defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comel.nn.layout.layout import Layout
from comel.nn.mixers import davit
from comel.nn.mixers.base import Width
from comel.nn.mixers.davit import ChannelAttention, DaViT, DaViTOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight


def from_seed(seed: Seed) -> DaViT:
    mixer = DaViT(Width(16, 4, mlp_ratio=2.0), DaViTOptions(window=3, scale="channels")).double()
    for half in ("spatial", "channel"):
        for own, theirs in (
            ("norm1", "norm1"), ("norm2", "norm2"), ("attention.qkv", "attn.qkv"), ("attention.proj", "attn.proj"),
            ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"), ("around1", "cpe.0.proj"), ("around2", "cpe.1.proj"),
        ):  # fmt: skip
            for kind in ("weight", "bias"):
                value = seed[f"w/{half}.{theirs}.{kind}"]
                value = value[:, 0] if own.startswith("around") and kind == "weight" else value
                set_weight(mixer.get_parameter(f"{half}.{own}.{kind}"), value)
    return mixer


def test_equals_the_authors_numbers() -> None:
    seed = Seed("davit")
    mixer, coords = from_seed(seed), grid_coords(6, 9)
    layout = Layout.of(seed["x"], coords.expand(2, -1, -1))
    rows = layout.pack(seed["x"])
    torch.testing.assert_close(layout.unpack(mixer.spatial(rows, layout)), seed["y_spatial"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mixer(seed["x"], layout), seed["y"], rtol=1e-10, atol=1e-12)
    attended = layout.unpack(mixer.channel.attention(rows, layout))
    torch.testing.assert_close(attended, seed["y_chattn"], rtol=1e-10, atol=1e-12)
    odd = Layout.of(seed["x2"], grid_coords(5, 7)[None])
    attended = odd.unpack(mixer.channel.attention(odd.pack(seed["x2"]), odd))
    torch.testing.assert_close(attended, seed["y2_chattn"], rtol=1e-10, atol=1e-12)


def attention(**options: Any) -> ChannelAttention:
    torch.manual_seed(0)
    return ChannelAttention(Width(12, 3), DaViTOptions(**options)).double()


def test_channels_attend_whatever_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = attention(), instances(20, 12)
    whole = module(x, Layout((1, 20)))
    q, k, v = (part.view(20, 3, 4) for part in module.qkv(x).chunk(3, dim=-1))
    parts = []
    for group in range(3):
        mixing = (k[:, group].T @ v[:, group] / 20**0.5).softmax(dim=-1)
        parts.append((mixing @ q[:, group].T).T)
    torch.testing.assert_close(whole, module.proj(torch.cat(parts, dim=1)))
    monkeypatch.setattr(davit, "_ROWS_AT_ONCE", 7)
    torch.testing.assert_close(module(x, Layout((1, 20))), whole)


@pytest.mark.parametrize(("scale", "same"), [("mean", True), ("channels", False)])
def test_the_same_tissue_twice(scale: str, same: bool) -> None:
    module, x = attention(scale=scale), instances(20, 12)
    once, twice = module(x, Layout((1, 20))), module(torch.cat([x, x]), Layout((1, 40)))
    assert torch.allclose(twice[:20], once) == same


def test_a_far_tile_is_seen_through_the_channels() -> None:
    mixer = DaViT(Width(12, 3), DaViTOptions(window=2)).double()
    x, coords = instances(40, 12).requires_grad_(True), bag_coords(40)
    mixed(mixer, x, coords)[0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=1) > 0).all()
