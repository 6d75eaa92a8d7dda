"""Long-range grouping attention against the authors' numbers and against what defines it."""

from __future__ import annotations

import torch

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.lrgt import LongRangeAttention, LRGTOptions, SquareAttention
from comel.nn.sublayer import Sublayer
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, set_weight


def load(module: SquareAttention, seed: Seed) -> None:
    for own, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj", "proj")):
        for kind in ("weight", "bias"):
            set_weight(module.get_parameter(f"{own}.{kind}"), seed[f"w/{theirs}.{kind}"])
    if isinstance(module, LongRangeAttention):
        set_weight(module.around.weight, seed["w/IFS.weight"][:, 0])
        assert module.around.bias is not None
        set_weight(module.around.bias, seed["w/IFS.bias"])


def far(stride: int, seed: Seed) -> LongRangeAttention:
    module = LongRangeAttention(Width(16, 2), LRGTOptions(stride=stride)).double()
    load(module, seed)
    return module


def test_equals_the_authors_numbers() -> None:
    seed = Seed("lrgt")
    # Two views are two pieces of tissue far apart, by a multiple of the stride.
    coords = torch.cat([grid_coords(14, 14), grid_coords(14, 14) + torch.tensor([256 * 70, 0])])
    found = far(7, seed)(seed["x"].flatten(0, 1), Layout((1, 392), coords[None]))
    torch.testing.assert_close(found, seed["y"].flatten(0, 1), rtol=1e-10, atol=1e-12)
    found = far(3, seed)(seed["x3"][0], Layout((1, 47), seed["coords3"]))
    torch.testing.assert_close(found, seed["y3"][0], rtol=1e-10, atol=1e-12)
    width = Width(16, 2, mlp_ratio=2.0)
    layer = Sublayer(width, SquareAttention(width, LRGTOptions(window=20)), eps=1e-6).double()
    load(layer.attention, seed)  # type: ignore[arg-type]
    for own, theirs in (("norm1", "norm1"), ("norm2", "norm2"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
        for kind in ("weight", "bias"):
            set_weight(layer.get_parameter(f"{own}.{kind}"), seed[f"w2/{theirs}.{kind}"])
    found = layer(seed["x2"][0], Layout((1, 20), grid_coords(4, 5)[None]))
    torch.testing.assert_close(found, seed["y2"][0], rtol=1e-10, atol=1e-12)


def test_tiles_at_multiples_of_the_stride_are_seen() -> None:
    torch.manual_seed(0)
    module, coords = LongRangeAttention(Width(12, 3), LRGTOptions(stride=3)).double(), bag_coords(60)
    set_weight(module.around.weight, torch.zeros_like(module.around.weight))
    x = instances(60, 12).requires_grad_(True)
    module(x, Layout((1, 60), coords[None]))[4].sum().backward()
    assert x.grad is not None
    rest = (coords // 256) % 3
    assert torch.equal(x.grad.abs().sum(dim=1) > 0, (rest == rest[4]).all(dim=1))


def test_groups_keep_their_size_as_slides_grow() -> None:
    module = LongRangeAttention(Width(12, 3), LRGTOptions(group_size=16))
    for side in (4, 10, 23):
        groups = module._groups(Layout((1, side * side), grid_coords(side, side)[None]))
        assert groups.largest <= 25
        assert int(groups.sizes.sum()) == side * side
