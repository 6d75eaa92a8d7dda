"""Cascaded group attention against the authors' numbers and against what defines it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.efficientvit import CascadedGroupAttention, EfficientViT, EfficientViTOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight

OPTIONS = EfficientViTOptions(window=4, key_width=6, kernels=(5, 3, 3, 3), norm="affine")


def folded(seed: Seed, name: str) -> tuple[Tensor, Tensor]:
    """Scale and shift of a trained BatchNorm."""
    scale = seed[f"w/{name}.weight"] / (seed[f"w/{name}.running_var"] + 1e-5).sqrt()
    return scale, seed[f"w/{name}.bias"] - seed[f"w/{name}.running_mean"] * scale


def from_seed(seed: Seed) -> EfficientViT:
    mixer = EfficientViT(Width(32, 4), OPTIONS).double()
    at = "mixer.m.attn."
    linears = {"attention.proj": at + "proj.1", **{f"attention.qkvs.{i}": f"{at}qkvs.{i}" for i in range(4)}}
    linears |= {f"mlp{i + 1}.fc{n}": f"ffn{i}.m.pw{n}" for i in range(2) for n in (1, 2)}
    norms = {"attention.norm": at + "proj.1", **{f"attention.qkv_norms.{i}": f"{at}qkvs.{i}" for i in range(4)}}
    norms |= {f"attention.around_norms.{i}": f"{at}dws.{i}" for i in range(4)}
    norms |= {f"mlp{i + 1}.norm{n}": f"ffn{i}.m.pw{n}" for i in range(2) for n in (1, 2)}
    norms |= {f"around{i + 1}.norm": f"dw{i}.m" for i in range(2)}
    for own, theirs in linears.items():
        set_weight(mixer.get_parameter(f"{own}.weight"), seed[f"w/{theirs}.c.weight"][:, :, 0, 0])
    for own, theirs in norms.items():
        scale, shift = folded(seed, f"{theirs}.bn")
        set_weight(mixer.get_parameter(f"{own}.weight"), scale)
        set_weight(mixer.get_parameter(f"{own}.bias"), shift)
    for i in range(4):
        set_weight(mixer.attention.around[i], seed[f"w/{at}dws.{i}.c.weight"][:, 0])
    for i in range(2):
        set_weight(mixer.get_parameter(f"around{i + 1}.around.weight"), seed[f"w/dw{i}.m.c.weight"][:, 0])
    set_weight(mixer.attention.biases, seed[f"w/{at}attention_biases"])
    return mixer


def rows(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B h w, C)."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


def layout(bags: int, side: int) -> Layout:
    return Layout((bags, side * side), grid_coords(side, side).expand(bags, -1, -1))


def test_equals_the_authors_numbers() -> None:
    seed = Seed("efficientvit-cga")
    mixer = from_seed(seed)
    found = mixer.attention(rows(seed["x"]), layout(3, 4))
    torch.testing.assert_close(found, rows(seed["y"]), rtol=1e-10, atol=1e-11)

    def padded(maps: Tensor) -> Tensor:  # the published code attends to zeros beyond the edge
        wide = torch.nn.functional.pad(maps, (0, 2, 0, 2))
        out: Tensor = mixer.attention(rows(wide), layout(2, 8))
        return out.view(2, 8, 8, 32)[:, :6, :6].permute(0, 3, 1, 2)

    torch.testing.assert_close(padded(seed["x2"]), seed["y2"], rtol=1e-10, atol=1e-11)
    here = layout(2, 6)
    x = rows(seed["x2"])
    x = x + mixer.around1(x, here)
    x = x + mixer.mlp1(x)
    x = x + rows(padded(x.view(2, 36, 32).transpose(1, 2).unflatten(2, (6, 6))))
    x = x + mixer.around2(x, here)
    torch.testing.assert_close(x + mixer.mlp2(x), rows(seed["y3"]), rtol=1e-10, atol=1e-10)


def test_a_head_sees_its_slice_and_those_before() -> None:
    torch.manual_seed(0)
    attention = CascadedGroupAttention(16, 4, EfficientViTOptions(window=3, key_width=4)).double()
    set_weight(attention.norm.weight, torch.ones(16, dtype=torch.float64))  # type: ignore[arg-type]
    attention.proj = torch.nn.Identity()  # type: ignore[assignment]
    attention.norm = torch.nn.Identity()
    place = Layout((1, 30), bag_coords(30)[None])
    x = instances(30, 16).requires_grad_(True)
    for head in range(4):
        (grad,) = torch.autograd.grad(attention(x, place)[:, 4 * head : 4 * head + 4].sum(), x)
        seen = grad.view(30, 4, 4).abs().sum(dim=(0, 2)) > 0
        assert seen[: head + 1].all()
        assert not seen[head + 1 :].any()


def test_starts_as_the_identity_and_stays_near() -> None:
    mixer = EfficientViT(Width(16, 4), EfficientViTOptions(window=2)).double()
    x, coords = instances(40, 16), bag_coords(40)
    torch.testing.assert_close(mixed(mixer, x, coords), x)


def test_kernels_that_do_not_fit() -> None:
    for kernels in ((3, 3), (4,)):
        with pytest.raises(ValueError, match="one odd number, or one per head"):
            EfficientViT(Width(16, 4), EfficientViTOptions(kernels=kernels))
