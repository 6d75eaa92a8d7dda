"""Strip attention against numbers from its equations and against what defines it."""

from __future__ import annotations

import pytest
import torch

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.s2aformer import S2AFormer, S2AFormerOptions, StripAttention, tilted_mean
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight


def from_seed(seed: Seed) -> S2AFormer:
    mixer = S2AFormer(Width(16, 4, mlp_ratio=2.0), S2AFormerOptions(window=2)).double()
    names = {"norm1": "norm1", "norm2": "norm2", "norm3": "norm3", "around": "pos", "local_around": "lim.dw", "local": "lim.pw"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", **{f"strips.{part}": part for part in ("q", "k", "v", "proj")}}
    for own, theirs in names.items():
        for kind in ("weight", "bias"):
            set_weight(mixer.get_parameter(f"{own}.{kind}"), seed[f"w/{theirs}.{kind}"])
    set_weight(mixer.strips.weight, seed["w/sr.weight"].flatten(1).T)
    set_weight(mixer.strips.bias, seed["w/sr.bias"])
    return mixer


def test_equals_the_equations() -> None:
    seed = Seed("s2aformer")
    mixer = from_seed(seed)
    for x, coords in (("x", grid_coords(6, 4, 1)), ("x2", seed["coords2"].flip(1))):
        y = "y" if x == "x" else "y2"
        layout = Layout((1, len(coords)), coords[None].double())
        torch.testing.assert_close(mixer.strips(seed[x], layout), seed[f"{y}_ssa"], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(mixed(mixer, seed[x], coords.double()), seed[y], rtol=1e-10, atol=1e-11)


def attention(exact: int) -> StripAttention:
    torch.manual_seed(0)
    return StripAttention(Width(12, 3), S2AFormerOptions(window=2, exact=exact)).double()


def test_the_curve_is_near_the_exact_attention() -> None:
    x, layout = instances(60, 12), Layout((1, 60), bag_coords(60)[None])
    exact = attention(1024)(x, layout)
    torch.testing.assert_close(attention(1)(x, layout), exact, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        attention(1)(x[:1], Layout((1, 1), bag_coords(1)[None])), attention(9)(x[:1], Layout((1, 1), bag_coords(1)[None]))
    )


def test_equal_queries_get_equal_answers_wherever_they_are() -> None:
    module = attention(1024)
    x = instances(30, 12)
    x[20] = x[3]
    out = module(x, Layout((1, 30), bag_coords(30)[None]))
    torch.testing.assert_close(out[20], out[3])


def test_a_larger_query_leans_to_larger_keys() -> None:
    k = torch.randn(9, 1, dtype=torch.float64)
    q = torch.linspace(-3, 3, 40, dtype=torch.float64).unsqueeze(1)
    out = tilted_mean(q, k, k.unsqueeze(-1), 64)[:, 0, 0]
    assert (out.diff() >= 0).all()


@pytest.mark.parametrize(("spread", "within"), [(1.0, 1e-7), (3.0, 1e-5), (10.0, 1e-4)])
def test_the_curve_holds_for_large_queries(spread: float, within: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 2, dtype=torch.float64, generator=generator) for n in (500, 300))
    v = torch.randn(300, 2, 4, dtype=torch.float64, generator=generator)
    q = q * spread
    exact = torch.einsum("hqw,whd->qhd", torch.softmax(torch.einsum("qh,wh->hqw", q, k), dim=-1), v)
    assert (tilted_mean(q, k, v, 256) - exact).abs().max() < within * exact.abs().max()


def test_windows_of_one_tile_are_plain_attention_and_one_window_is_one_answer() -> None:
    module = StripAttention(Width(12, 3), S2AFormerOptions(window=1)).double()
    x, layout = instances(20, 12), Layout((1, 20), bag_coords(20)[None])
    seen = x * module.weight + module.bias
    q, k, v = module.q(x), module.k(seen), module.v(seen).view(20, 3, 4)
    weights = torch.softmax(torch.einsum("qh,wh->hqw", q, k), dim=-1)
    torch.testing.assert_close(module(x, layout), module.proj(torch.einsum("hqw,whd->qhd", weights, v).flatten(1)))
    module = StripAttention(Width(12, 3), S2AFormerOptions(window=30)).double()
    out = module(x, layout)
    torch.testing.assert_close(out, out[:1].expand(20, -1))
