"""TNT against the authors' numbers and against what defines it."""

from __future__ import annotations

import pytest
import torch

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers import tnt
from comel.nn.mixers.base import Width
from comel.nn.mixers.tnt import TNT, Fold, TNTBlock, TNTOptions
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, mixed, set_weight


def from_seed(seed: Seed) -> TNTBlock:
    block = TNTBlock(Width(32, 4, mlp_ratio=2.0), 4, 8, 2).double()
    for half in ("inner", "outer"):
        for kind in ("weight", "bias"):
            q, k = seed[f"w/{half}_attn.qk.{kind}"].chunk(2)
            for own, value in (("q", q), ("k", k), ("v", seed[f"w/{half}_attn.v.{kind}"])):
                set_weight(block.get_parameter(f"{half}.{own}.{kind}"), value)
            set_weight(block.get_parameter(f"{half}.proj.{kind}"), seed[f"w/{half}_attn.proj.{kind}"])
            for n in (1, 2):
                set_weight(block.get_parameter(f"{half}_norm{n}.{kind}"), seed[f"w/{half}_norm{n}.{kind}"])
                set_weight(block.get_parameter(f"{half}_mlp.fc{n}.{kind}"), seed[f"w/{half}_mlp.fc{n}.{kind}"])
    for kind in ("weight", "bias"):
        set_weight(block.get_parameter(f"fold.{kind}"), seed[f"w/proj_norm1.{kind}"].view(4, 8))
        set_weight(block.get_parameter(f"fold_norm.{kind}"), seed[f"w/proj_norm2.{kind}"])
    set_weight(block.fold.proj.weight, seed["w/proj.weight"])
    return block


def test_equals_the_authors_numbers() -> None:
    seed = Seed("tnt")
    block = from_seed(seed)
    region = torch.arange(12).repeat_interleave(4)  # 2 bags of 6 regions of 4 words
    regions = Segments(region, region // 6)
    sentences = torch.cat([seed["x"][:, 1:].flatten(0, 1), seed["x"][:, 0]])  # the class tokens last
    bag = torch.cat([regions.bag, torch.arange(2)])
    y, z = block(seed["x_inner"].flatten(0, 1), sentences, torch.arange(48) % 4, regions, Segments(bag, bag))
    torch.testing.assert_close(y.view(12, 4, 8), seed["y_inner"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(z[:12].view(2, 6, 32), seed["y"][:, 1:], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(z[12:], seed["y"][:, 0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("at_once", [1 << 22, 60])
def test_absent_tiles_are_left_out_of_the_norm_and_0_in_the_vector(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tnt, "_NUMBERS_AT_ONCE", at_once)
    torch.manual_seed(0)
    fold = Fold(9, 4, 6).double()
    set_weight(fold.weight, torch.randn(9, 4, dtype=torch.float64))
    set_weight(fold.bias, torch.randn(9, 4, dtype=torch.float64))
    y, layout = instances(20, 4), Layout((1, 20), bag_coords(20)[None])
    squares, place = layout.squares(3), layout.place_in_square(3)
    found = fold(y, place, squares)
    for number in range(squares.number):
        words = y[squares.of == number]
        normed = (words - words.mean()) / (words.var(unbiased=False) + 1e-5).sqrt()
        vector = torch.zeros(9, 4, dtype=torch.float64)
        at = place[squares.of == number]
        vector[at] = normed * fold.weight[at] + fold.bias[at]
        torch.testing.assert_close(found[number], fold.proj(vector.flatten()))


def test_words_see_their_region_alone() -> None:
    torch.manual_seed(0)
    mixer = TNT(Width(12, 3), TNTOptions(side=2, depth=2)).double()
    coords = bag_coords(40)
    other = instances(40, 12)
    other[5, 0] += 1
    layout = Layout((1, 40), coords[None])
    squares, bags = layout.squares(2), Segments(layout.squares(2).bag, layout.squares(2).bag)
    words = []
    for x in (instances(40, 12), other):
        y, z = mixer.into(mixer.norm(x)), torch.zeros(squares.number, 12, dtype=torch.float64)
        for block in mixer.blocks:
            y, z = block(y, z, layout.place_in_square(2), squares, bags)
        words.append(y)
    same = (words[0] == words[1]).all(dim=1)
    assert torch.equal(same, squares.of != squares.of[5])
    moved = (mixed(mixer, other, coords) - mixed(mixer, instances(40, 12), coords)).abs().sum(dim=1)
    assert (moved > 0).all()  # through the sentences


def test_a_fold_of_nothing_leaves_the_sentences_as_they_are() -> None:
    torch.manual_seed(0)
    block = TNTBlock(Width(12, 3), 4, 4, 2).double()
    set_weight(block.fold.proj.weight, torch.zeros_like(block.fold.proj.weight))
    layout = Layout((1, 30), bag_coords(30)[None])
    squares, z = layout.squares(2), instances(layout.squares(2).number, 12, 3)
    bags = Segments(squares.bag, squares.bag)
    found = [block(instances(30, 4, seed), z, layout.place_in_square(2), squares, bags)[1] for seed in (0, 1)]
    assert torch.equal(found[0], found[1])
    expected = z + block.outer.within(block.outer_norm1(z), bags)
    torch.testing.assert_close(found[0], expected + block.outer_mlp(block.outer_norm2(expected)))
