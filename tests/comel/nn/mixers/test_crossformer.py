"""CrossFormer's attentions against the authors' numbers and against what defines them."""

from __future__ import annotations

import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.crossformer import CrossFormer, CrossFormerOptions, GroupAttention
from comel.nn.sublayer import Sublayer
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, set_weight

NAMES = {
    "norm1": "norm1", "norm2": "norm2", "attention.qkv": "attn.qkv", "attention.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "attention.positions.pos_proj": "attn.pos.pos_proj",
    **{f"attention.positions.norms.{i}": f"attn.pos.pos{i + 1}.0" for i in range(3)},
    **{f"attention.positions.linears.{i}": f"attn.pos.pos{i + 1}.2" for i in range(3)},
}  # fmt: skip


def from_seed(seed: Seed, long: bool) -> Sublayer:
    width, options = Width(48, 4, mlp_ratio=0.5), CrossFormerOptions(group=4, interval=2, bias_hidden=3)
    layer = Sublayer(width, GroupAttention(width, options, long)).double()
    seed.load(layer, {f"{own}.{kind}": f"{theirs}.{kind}" for own, theirs in NAMES.items() for kind in ("weight", "bias")})
    return layer


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_equals_the_authors_numbers() -> None:
    seed = Seed("crossformer")
    for x, height, width in (("x", 8, 8), ("x2", 7, 9)):
        layout = Layout((1, height * width), grid_coords(height, width)[None])
        y = "y" if x == "x" else "y2"
        near(from_seed(seed, False)(seed[x][0], layout).detach(), seed[f"{y}_sda"][0])
        near(from_seed(seed, True)(seed[x][0], layout).detach(), seed[y][0])
    near(from_seed(seed, False).attention.positions.table(4).detach(), seed["y_dpb"])  # type: ignore[union-attr, operator]


def test_a_group_is_all_that_is_seen() -> None:
    torch.manual_seed(0)
    coords = bag_coords(60)
    cells = (coords - coords.amin(dim=0)) // 256
    layout = Layout((1, 60), coords[None])
    for long, interval in ((False, 1), (True, 2)):
        module = GroupAttention(Width(12, 3), CrossFormerOptions(group=3, interval=2), long).double()
        x = instances(60, 12).requires_grad_(True)
        module(x, layout)[7].sum().backward()
        assert x.grad is not None
        own = torch.cat([cells // (3 * interval), cells % interval], dim=1)
        assert torch.equal(x.grad.abs().sum(dim=1) > 0, (own == own[7]).all(dim=1))


def test_long_groups_span_the_slide() -> None:
    module = GroupAttention(Width(12, 3), CrossFormerOptions(group=3), long=True).double()
    layout = Layout((1, 60), bag_coords(60)[None])
    interval = module._interval(layout)
    assert isinstance(interval, int)
    assert 3 * interval >= int(layout.box.max())
    assert layout.dilated(3, interval).largest <= 9


def test_a_distance_of_one_makes_both_the_same() -> None:
    torch.manual_seed(0)
    short = GroupAttention(Width(12, 3), CrossFormerOptions(group=3, interval=1), long=False).double()
    long = GroupAttention(Width(12, 3), CrossFormerOptions(group=3, interval=1), long=True).double()
    long.load_state_dict(short.state_dict())
    layout = Layout((1, 30), bag_coords(30)[None])
    torch.testing.assert_close(long(instances(30, 12), layout), short(instances(30, 12), layout))


def test_places_are_mirrored_by_the_bias() -> None:
    mixer = CrossFormer(Width(12, 3), CrossFormerOptions(group=2)).double()
    attention = mixer.short.attention
    assert isinstance(attention, GroupAttention)
    with torch.no_grad():
        for parameter in attention.positions.parameters():
            set_weight(parameter, torch.randn_like(parameter))
    x, layout = instances(4, 12), Layout((1, 4), grid_coords(2, 2)[None])
    turned = Layout((1, 4), grid_coords(2, 2).flip(0)[None])
    assert (attention(x, layout) - attention(x, turned)).abs().max() > 1e-3
