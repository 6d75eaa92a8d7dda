"""Attention, its heads, normalisers and positions against the authors' numbers and against explicit matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.errors import BagError
from comel.nn.heads.allocation import allocate, by_norm, key_of_query
from comel.nn.layout.layout import Layout
from comel.nn.mixers.attention import FullAttention, FullAttentionOptions
from comel.nn.mixers.base import Width
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, mixed, set_weight


def make(dim: int = 12, heads: int = 3, **options: Any) -> FullAttention:
    torch.manual_seed(0)
    return FullAttention(Width(dim, heads), FullAttentionOptions(**options)).double()


def load(mixer: FullAttention, seed: Seed, names: dict[str, str], prefix: str = "w/") -> FullAttention:
    for own, theirs in names.items():
        for kind in ("weight", "bias"):
            if f"{prefix}{theirs}.{kind}" in seed:
                set_weight(mixer.get_parameter(f"{own}.{kind}"), seed[f"{prefix}{theirs}.{kind}"])
    return mixer


def test_is_an_attention_of_torch() -> None:
    mixer, x = make(), instances(20, 12)
    theirs = torch.nn.MultiheadAttention(12, 3).double()
    set_weight(theirs.in_proj_weight, torch.cat([mixer.q.weight, mixer.k.weight, mixer.v.weight]))
    set_weight(theirs.in_proj_bias, torch.cat([mixer.q.bias, mixer.k.bias, mixer.v.bias]))
    set_weight(theirs.out_proj.weight, mixer.proj.weight)
    set_weight(theirs.out_proj.bias, mixer.proj.bias)
    torch.testing.assert_close(mixed(mixer, x), theirs(x, x, x)[0])


def test_windows() -> None:
    mixer, x, coords = make(window=3), instances(40, 12), bag_coords(40)
    whole = make()
    squares = Layout((1, 40), coords[None]).squares(3).of
    out = mixed(mixer, x, coords)
    for square in squares.unique():
        rows = squares == square
        torch.testing.assert_close(out[rows], mixed(whole, x[rows]))


def near(found: Tensor, expected: Tensor, within: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=within * float(expected.abs().max()))


def test_fewer_query_heads_equal_the_authors_numbers() -> None:
    seed = Seed("sqa")
    mixer = make(32, 8, query_heads=4, key_heads=2)
    load(mixer, seed, {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "out_proj"})
    near(mixed(mixer, seed["x"]), seed["y"], 1e-10)
    for b in range(2):
        keep = seed["keep"][b]
        near(mixed(mixer, seed["x"][b, keep]), seed["y_masked"][b, keep], 1e-10)


def test_key_driven_allocation_equals_the_authors_numbers() -> None:
    seed = Seed("kdgqa")
    names = {part: part for part in ("q", "k", "v", "proj")}
    plain = load(make(24, 6, sharing="grouped", key_heads=3), seed, names)
    near(mixed(plain, seed["x"]), seed["y_gqa"], 1e-5)
    driven = load(make(24, 6, sharing="key-driven", key_heads=3), seed, names)
    near(mixed(driven, seed["x2"]), seed["y2"], 1e-5)
    for b in range(2):
        near(mixed(driven, seed["x"][b]), seed[f"y_alone_{b}"][0], 1e-5)
        norms = driven.k(seed["x"][b]).view(-1, 3, 4).square().sum(dim=(0, 2)).sqrt()
        assert by_norm(norms, 6).tolist() == seed[f"alloc_alone_{b}"].tolist()
    assert by_norm(seed["key_norms"], 6).tolist() == seed["alloc"].tolist()


def test_an_allocation_sums_up_whatever_the_norms() -> None:
    assert by_norm(torch.tensor([10.02, 35.43, 24.46]), 6).tolist() == [0, 4, 2]
    assert by_norm(torch.zeros(3), 6).tolist() == [2, 2, 2]
    assert key_of_query(torch.tensor([0, 4, 2])).tolist() == [1, 1, 1, 1, 2, 2]
    generator = torch.Generator().manual_seed(0)
    for groups in range(1, 9):
        for _ in range(200):
            found = allocate(torch.rand(groups, generator=generator), 8)
            assert int(found.sum()) == 8
            assert int(found.min()) >= 0


def test_a_dynamic_allocation_is_kept_with_the_weights() -> None:
    mixer = make(24, 6, sharing="dynamic", key_heads=3)
    with torch.no_grad():
        mixer.k.weight[:4] *= 30  # the first key head's keys are large
    for seed in range(40):
        mixed(mixer.train(), instances(20, 24, seed))
    norms = mixer.norms.clone()
    again = make(24, 6, sharing="dynamic", key_heads=3).eval()
    again.load_state_dict(mixer.state_dict())
    x = instances(20, 24, 99)
    assert torch.equal(mixed(again, x), mixed(mixer.eval(), x))
    assert torch.equal(mixer.norms, norms)
    assert allocate(norms.double(), 6)[0] > 2


def test_routed_heads_equal_the_authors_numbers() -> None:
    seed = Seed("moh")
    for case, shared, routed in (("", 3, 2), ("2", 0, 5)):
        mixer = make(32, 8, shared_heads=shared, routed_heads=routed)
        prefix = f"w{case}/"
        parts = {kind: seed[f"{prefix}qkv.{kind}"].chunk(3) for kind in ("weight", "bias")}
        for at, own in enumerate("qkv"):
            for kind in ("weight", "bias"):
                set_weight(mixer.get_parameter(f"{own}.{kind}"), parts[kind][at])
        load(mixer, seed, {"proj": "proj", "router.route": "wg"}, prefix)
        assert mixer.router is not None
        if shared:
            load(mixer, seed, {"router.share": "wg_1", "router.between": "wg_0"}, prefix)
        near(mixed(mixer.eval(), seed[f"x{case}"]), seed[f"y{case}"], 1e-5)
        mixed(mixer.train(), seed[f"x{case}"])
        assert mixer.router.balance is not None
        near(mixer.router.balance, seed[f"balance_loss{case}"].view(()), 1e-5)
        gates = mixer.router(seed[f"x{case}"].flatten(0, 1))
        assert ((gates != 0).sum(dim=1) == shared + routed).all()


def test_sigmoid_weights_equal_the_authors_numbers() -> None:
    seed = Seed("sigmoid-attention")
    mixer = make(32, 4, normaliser="sigmoid")
    x = F.layer_norm(seed["x"], (32,), seed["w/norm1.weight"], seed["w/norm1.bias"], 1e-6)
    qkv = F.linear(x, seed["w/attn.qkv.weight"], seed["w/attn.qkv.bias"]).view(2, 18, 3, 4, 8).unbind(dim=2)
    norms = {part: (seed[f"w/attn.{part}_norm.weight"], seed[f"w/attn.{part}_norm.bias"]) for part in ("q", "k")}
    q, k = (F.layer_norm(part, (8,), *norms[name], 1e-6) for part, name in zip(qkv, ("q", "k"), strict=False))
    layout = Layout((2, 18))
    heat = torch.exp(seed["w/attn.attn_temp"])
    out = mixer._attend((q * heat).flatten(0, 1), k.flatten(0, 1), qkv[2].flatten(0, 1), layout)
    found = F.linear(out.flatten(1), seed["w/attn.proj.weight"], seed["w/attn.proj.bias"]).view(2, 18, 32)
    near(found, seed["y_attn"], 1e-6)  # the stored bias -ln 18 is in single precision


def test_complex_positions_equal_the_authors_numbers() -> None:
    seed = Seed("complexformer")
    mixer = make(32, 4, position="complex", qkv_bias=False)
    load(mixer, seed, {"q": "W_q", "k": "W_k", "v": "W_v", "proj": "W_o"})
    set_weight(mixer.proj.bias, torch.zeros(32, dtype=torch.float64))
    assert mixer.phases is not None
    set_weight(mixer.phases.delta, seed["w/delta_params"])
    set_weight(mixer.phases.b, seed["w/bias_params"])
    with torch.no_grad():
        mixer.q.weight *= 8**0.5  # the published logits are not divided by sqrt d
    line = torch.stack([torch.arange(21), torch.zeros(21, dtype=torch.int64)], dim=1)
    mixer.phases.frequencies[..., 0], mixer.phases.frequencies[..., 1] = seed["g_used"], 0.0
    near(mixed(mixer, seed["x"], line.expand(2, -1, -1) * 256), seed["y"], 1e-7)
    mixer.phases.frequencies.copy_(seed["freq2"])
    layout = Layout((1, 13), seed["coords2"].double())
    found = mixer(seed["x2"], layout)
    assert torch.equal(layout.cells.double(), seed["coords2"][0] - seed["coords2"][0].amin(dim=0))
    near(found, seed["y2"], 1e-7)


def test_urpe_equals_the_numbers() -> None:
    seed = Seed("urpe")
    mixer = make(32, 4, position="urpe", reach=3)
    load(mixer, seed, {part: f"{part}_proj" for part in ("q", "k", "v")} | {"proj": "out_proj"})
    assert mixer.tables is not None
    set_weight(mixer.tables.b, seed["rel_bias2"])
    set_weight(mixer.tables.c_minus_one, seed["ur_factor2"] - 1)
    near(mixed(mixer, seed["x2"][0], seed["coords2"][0].double()), seed["y2"][0], 1e-9)


def test_tiles_that_look_alike_are_told_apart_after_the_softmax_alone() -> None:
    mixer, coords = make(position="urpe", reach=2), bag_coords(20)
    x = instances(1, 12).expand(20, -1)
    assert mixer.tables is not None
    set_weight(mixer.tables.b, torch.randn(25, 3, dtype=torch.float64))
    out = mixed(mixer, x, coords)
    torch.testing.assert_close(out, out[:1].expand(20, -1))
    set_weight(mixer.tables.c_minus_one, torch.randn(25, 3, dtype=torch.float64))
    assert (mixed(mixer, x, coords) - mixed(mixer, x, coords)[:1]).abs().max() > 1e-3


def test_kernelized_attention_equals_the_equations() -> None:
    seed = Seed("kernelized-rpe")
    mixer = make(16, 2, position="kernelized-rpe", reach=2, features=12)
    load(mixer, seed, {"q": "q", "k": "k", "v": "v", "proj": "o"})
    assert mixer.kernelized is not None
    set_weight(mixer.kernelized.b, seed["w/rpe2"])
    set_weight(mixer.kernelized.b_out, seed["w/rpe_out"])
    mixer.kernelized.omega.copy_(seed["w/omega"])
    near(mixed(mixer, seed["x2"], seed["coords2"].flip(1).double()), seed["y2"], 1e-10)


def test_a_bias_made_of_the_offset() -> None:
    mixer, x, coords = make(position="dynamic-bias"), instances(20, 12), bag_coords(20)
    assert mixer.bias is not None
    cells = (coords - coords.amin(dim=0)) // 256
    apart = (cells.unsqueeze(1) - cells.unsqueeze(0)).flip(-1).double()
    q, k, v = (linear(x).view(20, 3, 4).transpose(0, 1) for linear in (mixer.q, mixer.k, mixer.v))
    logits = q @ k.mT / 2 + mixer.bias(apart).permute(2, 0, 1)
    torch.testing.assert_close(mixed(mixer, x, coords), mixer.proj((logits.softmax(dim=-1) @ v).transpose(0, 1).flatten(1)))


@pytest.mark.parametrize(
    "options",
    [
        {"sharing": "key-driven", "key_heads": 2}, {"sharing": "dynamic", "key_heads": 2}, {"query_heads": 2},
        {"shared_heads": 2, "routed_heads": 1}, {"normaliser": "sigmoid"}, {"position": "complex"},
        {"position": "urpe"}, {"position": "urpe", "window": 3}, {"position": "dynamic-bias"},
        {"position": "dynamic-bias", "window": 3}, {"position": "kernelized-rpe"},
        {"normaliser": "sigmoid", "position": "urpe", "sharing": "grouped", "window": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_batch_equals_its_bags_and_learns(options: dict[str, Any]) -> None:
    mixer = make(16, 4, **options).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    x = torch.full((3, 40, 16), torch.nan, dtype=torch.float64)
    coords, mask = torch.zeros(3, 40, 2, dtype=torch.int64), torch.zeros(3, 40, dtype=torch.bool)
    for b, count in enumerate((1, 17, 40)):
        x[b, :count], coords[b, :count], mask[b, :count] = instances(count, 16, b), bag_coords(count, b), True
    out = mixed(mixer, x, coords, mask)
    for b, count in enumerate((1, 17, 40)):
        alone = mixed(mixer, instances(count, 16, b), bag_coords(count, b))
        torch.testing.assert_close(out[b, :count], alone)
        with torch.no_grad():
            torch.testing.assert_close(mixed(mixer, instances(count, 16, b), bag_coords(count, b)), alone.detach())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    moved = mixed(mixer, instances(40, 16, 2)[order], bag_coords(40, 2)[order])
    torch.testing.assert_close(moved, alone[order])
    (out[mask] * instances(58, 16, 7)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in mixer.parameters())
    assert torch.isfinite(mixed(mixer, instances(9, 16))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_heads": 3}, "do not divide 4 heads"),
        ({"sharing": "grouped", "key_heads": 3}, "do not divide 4 query heads"),
        ({"key_heads": 2}, "have no meaning with sharing 'all'"),
        ({"shared_heads": 2}, "without routed_heads"),
        ({"shared_heads": 3, "routed_heads": 2}, "do not fit each other"),
        ({"position": "kernelized-rpe", "window": 3}, "replaces the softmax"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(16, 4, **options)


def test_a_bag_that_is_too_large_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(BagError, match="takes 10 instances, and a bag has 11"):
        mixed(make(max_instances=10), instances(11, 12))
