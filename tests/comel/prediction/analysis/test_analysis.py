"""Importance, distances and patterns against numbers from their equations and against what defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.block import Block
from comel.nn.layout.layout import Layout
from comel.nn.mixers.attention import FullAttention
from comel.nn.mixers.base import Width
from comel.nn.mixers.gdat import GroupedDoubleAttention, GroupedDoubleAttentionOptions
from comel.prediction.analysis.distances import local_maps, rings_of
from comel.prediction.analysis.importance import importance_of_branches, importance_of_heads
from comel.prediction.analysis.patterns import group_patterns, place_patterns
from tests.comel.nn.mixers.seeds import Seed, bag_coords, instances, set_weight


class Network:
    """Two layers of plain attention, a norm, the mean over the tiles and a head, with the stored weights."""

    def __init__(self) -> None:
        self.seed = Seed("visual-analytics")
        self.cells = self.seed["cells"].flip(1)  # the numbers say row, column
        self.layout = Layout((1, 51), self.cells[None].double())
        self.blocks = []
        for at in range(2):
            mixer = FullAttention(Width(12, 3, mlp_ratio=20 / 12 + 1e-9))
            block = Block(mixer).double().eval()
            for kind in ("weight", "bias"):
                for own, value in zip("qkv", self.seed[f"w/{at}.qkv.{kind}"].chunk(3), strict=True):
                    set_weight(mixer.get_parameter(f"{own}.{kind}"), value)
                set_weight(mixer.get_parameter(f"proj.{kind}"), self.seed[f"w/{at}.proj.{kind}"])
                for part in ("norm1", "norm2", "fc1", "fc2"):
                    set_weight(block.get_parameter(f"{part}.{kind}"), self.seed[f"w/{at}.{part}.{kind}"])
            self.blocks.append(block)
        self.rows: list[Tensor] = []

    @torch.no_grad()
    def answer(self) -> tuple[Tensor, Tensor]:
        x = self.seed["x"][None]
        self.rows = []
        for block in self.blocks:
            rows = block.attention.rows(block.norm1(x)[0], self.layout, torch.arange(51))
            assert rows is not None
            self.rows.append(rows)
            x = block(x, self.layout)
        z = F.layer_norm(x, (12,), self.seed["w/norm.weight"], self.seed["w/norm.bias"], 1e-6)[0].mean(dim=0)
        return z, torch.softmax(F.linear(z, self.seed["w/head.weight"], self.seed["w/head.bias"]), dim=-1)


@pytest.fixture
def network() -> Network:
    return Network()


def test_the_importance_of_heads_equals_the_numbers(network: Network) -> None:
    z, p = network.answer()
    torch.testing.assert_close(z, network.seed["z"])
    torch.testing.assert_close(p, network.seed["prob"])
    for alone, name in ((False, "importance_prune"), (True, "importance_only")):
        found = importance_of_heads(network.answer, [b.attention.proj for b in network.blocks], [3, 3], 1, alone=alone)  # type: ignore[misc]
        table = torch.tensor([[[i.drop, i.divergence, i.turn, i.change] for i in own] for own in found], dtype=torch.float64)
        torch.testing.assert_close(table, network.seed[name], rtol=1e-8, atol=1e-12)


def test_distances_and_maps_equal_the_numbers(network: Network) -> None:
    network.answer()
    maps = []
    for at, rows in enumerate(network.rows):
        rings = rings_of(rows, torch.arange(51), network.cells)
        for found, name in (
            (rings.mass, "ring_mass"), (rings.strength, "ring_strength"), (rings.distance, "mean_distance"),
            (rings.entropy, "entropy"),
        ):  # fmt: skip
            torch.testing.assert_close(found, network.seed[name][at], rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(rings.base, network.seed["ring_base"])
        around, count = local_maps(rows, torch.arange(51), network.cells)
        torch.testing.assert_close(around, network.seed["local_map"][at], rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(count, network.seed["local_count"])
        maps.append(around)
    scores, shares = place_patterns(torch.cat(maps).numpy())
    np.testing.assert_allclose(np.abs(scores), network.seed["pattern_pca"].numpy(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shares, network.seed["pattern_explained"].numpy(), rtol=1e-6)


def test_an_indifferent_head_and_one_that_sees_itself() -> None:
    cells = bag_coords(40) // 256
    rings = rings_of(torch.full((1, 40, 40), 1 / 40), torch.arange(40), cells)
    torch.testing.assert_close(rings.mass[0], rings.base)
    assert rings.entropy[0].item() == pytest.approx(1)
    around, count = local_maps(torch.full((1, 40, 40), 1 / 40), torch.arange(40), cells)
    torch.testing.assert_close(around[0][count > 0], torch.ones(int((count > 0).sum()), dtype=torch.float64))
    own = rings_of(torch.eye(40)[None], torch.arange(40), cells)
    assert own.mass[0, 0] == 1
    assert own.distance[0] == 0
    assert rings_of(torch.ones(1, 1, 1), torch.arange(1), cells[:1]).entropy[0] == 0


def test_some_queries_are_as_all_and_far_rings_can_be_joined() -> None:
    cells = bag_coords(40) // 256
    rows = torch.rand(2, 40, 40).softmax(dim=-1)
    some = torch.tensor([3, 7, 30])
    rings = rings_of(rows[:, some], some, cells, largest=2)
    assert rings.mass.shape == (2, 3)
    torch.testing.assert_close(rings.mass.sum(dim=1), torch.ones(2, dtype=torch.float64))
    every = rings_of(rows[:, some], some, cells)
    torch.testing.assert_close(rings.mass[:, :2], every.mass[:, :2])


def test_rows_are_what_the_mixer_multiplies_values_by() -> None:
    torch.manual_seed(0)
    x, coords = instances(30, 12), bag_coords(30)
    layout = Layout((1, 30), coords[None])
    options = GroupedDoubleAttentionOptions(region_size=3)
    for mixer, shortcut in ((FullAttention(Width(12, 3)), 0.0), (GroupedDoubleAttention(Width(12, 3), options), 0.1)):
        mixer = mixer.double()
        rows = mixer.rows(x, layout, torch.arange(30))
        assert rows is not None
        torch.testing.assert_close(rows.sum(dim=-1), torch.ones(3, 30, dtype=torch.float64))
        v = mixer.v(x).view(30, 3, 4).transpose(0, 1)
        expected = mixer.proj((rows @ v + shortcut * v).transpose(0, 1).flatten(1))
        torch.testing.assert_close(mixer.mix(x, layout), expected)


def test_branches_that_are_silent(network: Network) -> None:
    block = network.blocks[0]
    found = importance_of_branches(network.answer, [(block.attention, False), (block, True)], 1)
    before = network.answer()
    with torch.no_grad():
        block.attention.proj.weight.zero_()  # type: ignore[union-attr, operator]
        block.attention.proj.bias.zero_()  # type: ignore[union-attr, operator]
    after = network.answer()
    assert found[0].drop == pytest.approx(float(before[1][1] - after[1][1]))
    network.blocks = network.blocks[1:]
    skipped = network.answer()
    assert found[1].drop == pytest.approx(float(before[1][1] - skipped[1][1]))


def test_heads_that_do_the_same_are_in_one_group() -> None:
    generator = np.random.default_rng(0)
    right, own = np.zeros((7, 7)), np.zeros((7, 7))
    right[3, 4], own[3, 3] = 1, 1
    maps = np.stack([base + 0.01 * generator.random((7, 7)) for base in (right, own, right, own, right, own)])
    groups = group_patterns(maps)
    assert len(set(groups)) == 2
    assert groups[0] == groups[2] == groups[4] != groups[1]
    assert (group_patterns(np.ones((6, 3, 3))) == 0).all()
