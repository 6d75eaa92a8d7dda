"""Feed-forward parts against the authors' numbers, and in a block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.block import Block, make_block
from comel.nn.feedforward.gdfn import GatedConvolution
from comel.nn.feedforward.glu import GatedLinearUnit
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances


def layout_of(coords: Tensor) -> Layout:
    return Layout((1, len(coords)), coords[None])


def test_glu_equals_the_authors_numbers() -> None:
    seed = Seed("activator")
    for prefix, x, y in (("w/", "x", "y"), ("w2/", "x2", "y2")):
        rows = seed[x]
        for block in range(2):
            at = f"model.{block}."
            unit = GatedLinearUnit(16, 24).double()
            names = {"fc1": "proj_1", "fc2": "proj_2", "fc3": "proj_3", "norm": "norm"}
            weights = {f"{own}.{w}": f"{at}actgu.{theirs}.{w}" for own, theirs in names.items() for w in ("weight", "bias")}
            seed.load(unit, weights, prefix)
            norm = seed[prefix + at + "norm.weight"], seed[prefix + at + "norm.bias"]
            if block == 0 and prefix == "w/":
                torch.testing.assert_close(unit(rows), seed["y_unit"], rtol=1e-10, atol=1e-12)
            rows = rows + unit(F.layer_norm(rows, (16,), *norm))
            if prefix == "w/":  # the full variant has a plain feed-forward part too
                w4, b4, w5, b5 = (seed[f"{prefix}{at}ffn.net.{n}.{w}"] for n in (0, 3) for w in ("weight", "bias"))
                rows = rows + F.linear(F.gelu(F.linear(F.layer_norm(rows, (16,), *norm), w4, b4)), w5, b5)
        torch.testing.assert_close(rows, seed[y], rtol=1e-10, atol=1e-12)


def test_gdfn_equals_the_authors_numbers() -> None:
    seed = Seed("dlgsanet")
    part = GatedConvolution(16, 32).double()
    at = "w/body.0."
    with torch.no_grad():
        part.project_in.weight.copy_(seed[at + "IDynamic_ffn.project_in.weight"][:, :, 0, 0])
        part.around.weight.copy_(seed[at + "IDynamic_ffn.dwconv.weight"][:, 0])
        part.project_out.weight.copy_(seed[at + "IDynamic_ffn.project_out.weight"][:, :, 0, 0])
    x = (seed["x"] + seed["y_mhdlsa"])[0].flatten(1).T  # y_mhdlsa is of LN(x), as the block computes it
    normed = F.layer_norm(x, (16,), seed[at + "norm2.body.weight"], seed[at + "norm2.body.bias"])
    found = x + part(normed, layout_of(grid_coords(7, 9)))
    torch.testing.assert_close(found, seed["y_local_block"][0].flatten(1).T, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("mlp", ["gelu", "glu", "gdfn"])
def test_a_block_with_each(mlp: str) -> None:
    torch.manual_seed(0)
    block = Block(make_mixer("mlp", Width(24, 4)), mlp).double().eval()
    x, coords = instances(30, 24)[None], bag_coords(30)
    mask = torch.ones(1, 30, dtype=torch.bool)
    mask[0, 20:] = False
    whole = block(x, Layout.of(x, coords[None], mask))
    alone = block(x[:, :20], Layout.of(x[:, :20], coords[None, :20]))
    torch.testing.assert_close(whole[:, :20], alone)
    with torch.no_grad():
        torch.testing.assert_close(block(x, Layout.of(x, coords[None], mask))[:, :20], alone)
    assert torch.isfinite(block(x, Layout.of(x))).all()


def test_parameters_are_about_as_many() -> None:
    sizes = [
        sum(p.numel() for p in Block(make_mixer("gdat", Width(64, 4)), mlp).parameters()) for mlp in ("gelu", "glu", "gdfn")
    ]
    assert max(sizes) < 1.1 * min(sizes)


def test_a_part_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="choose gelu, glu or gdfn"):
        make_block(make_mixer("gdat", Width(24, 4)), "swiglu")
