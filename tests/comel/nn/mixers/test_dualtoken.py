"""DualToken-ViT against numbers from its equations and against what defines it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.dualtoken import DualToken, DualTokenOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight

NAMES = {
    "norm1": "norm1", "norm2": "norm2", "around": "conv.dw", "local_norm": "conv.norm", "local.fc1": "conv.pw1",
    "local.fc2": "conv.pw2", "token_norm": "gmlp.norm", "token_mlp.fc1": "gmlp.fc1", "token_mlp.fc2": "gmlp.fc2",
    "ffn.fc1": "ffn.fc1", "ffn.fc2": "ffn.fc2", "gates.norm": "bi.norm", "gates.global_reduce": "bi.global_reduce",
    "gates.local_reduce": "bi.local_reduce", "gates.channel_select": "bi.channel_select",
    "gates.tile_select": "bi.spatial_select",
    **{f"aggregate.{part}": f"agg.{part}" for part in ("q", "k", "v", "proj")},
    **{f"broadcast.{part}": f"bcast.{part}" for part in ("q", "k", "v", "proj")},
}  # fmt: skip


def from_seed(seed: Seed) -> DualToken:
    mixer = DualToken(Width(16, 2, mlp_ratio=2.0), DualTokenOptions(bins=3, kernel=5, alpha=0.3)).double()
    names = {f"blocks.0.{own}.{kind}": f"{theirs}.{kind}" for own, theirs in NAMES.items() for kind in ("weight", "bias")}
    seed.load(mixer, names | {"tokens": "global_tokens"})
    return mixer


def test_equals_the_equations() -> None:
    seed = Seed("dualtoken-vit")
    mixer = from_seed(seed)
    rows_columns = seed["coords2"].flip(1)  # the numbers say row, column
    for x, y, coords, tokens in (("x", "y", grid_coords(6, 6, 1), "y_global"), ("x2", "y2", rows_columns, "y2_global")):
        layout = Layout((1, len(coords)), coords[None].double())
        bins = layout.bins(3, 3)
        found, after = mixer.blocks[0](seed[x], mixer.tokens, layout, bins, bins.keys)
        torch.testing.assert_close(found, seed[y], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(after, seed[tokens], rtol=1e-10, atol=1e-12)


def from_scratch(**options: float) -> DualToken:
    torch.manual_seed(0)
    return DualToken(Width(12, 3), DualTokenOptions(**options)).double()


def test_tokens_that_keep_themselves_never_see_the_slide() -> None:
    mixer = from_scratch(bins=3, alpha=1.0)
    layout = Layout((1, 30), bag_coords(30)[None])
    bins = layout.bins(3, 3)
    block = mixer.blocks[0]
    one, other = (block(instances(30, 12, seed), mixer.tokens, layout, bins, bins.keys)[1] for seed in (0, 1))
    assert torch.equal(one, other)


def test_the_same_tissue_twice_in_every_cell() -> None:
    mixer, x, coords = from_scratch(bins=2, kernel=1), instances(30, 12), bag_coords(30)

    def tokens(x: Tensor, coords: Tensor) -> Tensor:
        layout = Layout((1, len(x)), coords[None])
        bins = layout.bins(2, 2)
        found: Tensor = mixer.blocks[0](x, mixer.tokens, layout, bins, bins.keys)[1]
        return found

    torch.testing.assert_close(tokens(torch.cat([x, x]), torch.cat([coords, coords])), tokens(x, coords))


def test_far_tiles_meet() -> None:
    mixer = from_scratch(bins=2, kernel=3)
    x = instances(60, 12).requires_grad_(True)
    (mixed(mixer, x, bag_coords(60))[3] * instances(1, 12, 5)[0]).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_a_kernel_without_a_middle_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        from_scratch(kernel=4)


def test_a_bin_without_tiles_keeps_its_token() -> None:
    mixer = from_scratch(bins=2, alpha=0.5)
    set_weight(mixer.get_parameter("blocks.0.token_mlp.fc2.weight"), torch.zeros(12, 48, dtype=torch.float64))
    set_weight(mixer.get_parameter("blocks.0.token_mlp.fc2.bias"), torch.zeros(12, dtype=torch.float64))
    coords = torch.tensor([[0, 0], [256, 0], [768, 768]])  # nothing top right or bottom left
    layout = Layout((1, 3), coords[None])
    bins = layout.bins(2, 2)
    _, after = mixer.blocks[0](instances(3, 12), mixer.tokens, layout, bins, bins.keys)
    same = (after == mixer.tokens).all(dim=1)
    assert same.tolist() == [False, True, True, False]
