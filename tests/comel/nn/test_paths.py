"""Paths of a stack of blocks against numbers from their equations."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from comel.nn.block import Block
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.attention import FullAttention
from comel.nn.mixers.base import Width
from comel.nn.paths import PathEnsemble
from tests.comel.nn.mixers.seeds import Seed, instances, set_weight


def blocks_of(seed: Seed) -> list[Block]:
    blocks = []
    for at in range(3):
        block = Block(FullAttention(Width(16, 2, mlp_ratio=2.0))).double().eval()
        for kind in ("weight", "bias"):
            for own, value in zip("qkv", seed[f"w/{at}.qkv.{kind}"].chunk(3), strict=True):
                set_weight(block.get_parameter(f"attention.{own}.{kind}"), value)
            set_weight(block.get_parameter(f"attention.proj.{kind}"), seed[f"w/{at}.proj.{kind}"])
            for part in ("norm1", "norm2", "fc1", "fc2"):
                set_weight(block.get_parameter(f"{part}.{kind}"), seed[f"w/{at}.{part}.{kind}"])
        blocks.append(block)
    return blocks


def test_equals_the_numbers() -> None:
    seed = Seed("path-ensemble")
    blocks, layout = blocks_of(seed), Layout((2, 6))
    paths = PathEnsemble(blocks, 16).double()
    norm = seed["w/norm.weight"], seed["w/norm.bias"]
    plain = seed["x"]
    for block in blocks:
        plain = block(plain, layout)
    torch.testing.assert_close(paths(seed["x"], blocks, layout), plain)
    torch.testing.assert_close(F.layer_norm(plain, (16,), *norm, 1e-6), seed["y_plain"], rtol=1e-10, atol=1e-12)
    set_weight(paths.scale, seed["w/scale"])
    found = F.layer_norm(paths(seed["x"], blocks, layout), (16,), *norm, 1e-6)
    torch.testing.assert_close(found, seed["y"], rtol=1e-10, atol=1e-12)
    set_weight(paths.scale, seed["keep"].double().unsqueeze(1).expand(-1, 16))
    found = F.layer_norm(paths(seed["x"], blocks, layout), (16,), *norm, 1e-6)
    torch.testing.assert_close(found, seed["y_pruned"], rtol=1e-10, atol=1e-12)


def test_what_blocks_see_does_not_depend_on_the_weights() -> None:
    torch.manual_seed(0)
    blocks = [Block(make_mixer("gdat", Width(12, 3))).double().eval() for _ in range(2)]
    paths, layout, x = PathEnsemble(blocks, 12).double(), Layout((1, 9)), instances(9, 12)[None]
    seen: list[torch.Tensor] = []
    handle = blocks[1].norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for value in (1.0, 0.3):
        set_weight(paths.scale, torch.full_like(paths.scale, value))
        paths(x, blocks, layout)
    handle.remove()
    assert torch.equal(seen[0], seen[1])
    set_weight(paths.scale, torch.eye(5, 1, dtype=torch.float64).expand(-1, 12))
    torch.testing.assert_close(paths(x, blocks, layout), x)
