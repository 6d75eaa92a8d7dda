"""Grouped double attention against explicit matrices, and against what must hold for any bag."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from comel.errors import BagError
from comel.nn.layout.layout import Layout
from comel.nn.mixers import gdat
from comel.nn.mixers.base import Width
from comel.nn.mixers.gdat import GroupedDoubleAttention, GroupedDoubleAttentionOptions, list_positions

SIZES = (1, 2, 3, 9, 10, 16, 17, 256, 257, 300)
LIST_GROUPINGS = ("strided", "region")
DIM, HEADS = 12, 3


def attention(grouping: str, region_size: int = 16, **kwargs: object) -> GroupedDoubleAttention:
    torch.manual_seed(1)
    options = GroupedDoubleAttentionOptions(region_size=region_size, grouping=grouping, **kwargs)
    module = GroupedDoubleAttention(Width(DIM, HEADS), options)
    torch.nn.init.normal_(module.proj.bias)
    return module.double().eval()


def instances(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM))


def tissue(count: int, seed: int = 0) -> np.ndarray:
    """Distinct tile positions (count, 2) in row-major order, in tiles, with holes between them."""
    side = math.ceil(math.sqrt(2 * count))
    cells = np.sort(np.random.default_rng(seed).choice(side * side, count, replace=False))
    return np.stack([cells % side, cells // side], axis=1)


def grid(count: int, region_size: int) -> tuple[int, int]:
    """Side of the list's grid, and of a region."""
    side = math.ceil(math.sqrt(count))
    if count < 10:
        side += side % 2
        return side, side
    while side % region_size:
        side += 1
    return side, region_size


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def double_attention(module: GroupedDoubleAttention, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The formula with its (m, M) and (M, m) matrices written out, head by head, in numpy."""
    q, k, v, proj = (getattr(module, name).weight.detach().numpy().T for name in ("q", "k", "v", "proj"))
    width = DIM // HEADS
    outputs = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        gathered = softmax((tokens @ q[:, part]) @ (rows @ k[:, part]).T / math.sqrt(width)) @ (rows @ v[:, part])
        back = softmax((rows @ q[:, part]) @ (tokens @ k[:, part]).T / math.sqrt(width)) @ gathered
        outputs.append(back + 0.1 * (rows @ v[:, part]))
    attended: np.ndarray = np.concatenate(outputs, axis=1) @ proj + module.proj.bias.detach().numpy()
    return attended


def tokens_one_by_one(grouping: str, x: np.ndarray, places: np.ndarray, region_size: int) -> np.ndarray:
    """Group tokens by filing every instance under its group's name."""
    side, region = grid(len(x), region_size)
    members: dict[tuple[int, int], list[np.ndarray]] = {}
    for index, row in enumerate(x):
        line, column = divmod(index, side)
        if grouping == "strided":
            name = (line % region, column % region)
        elif grouping == "region":
            name = (line // region, column // region)
        else:
            offset = places[index] - places.min(axis=0)
            name = (int(offset[1]) // region_size, int(offset[0]) // region_size)
        members.setdefault(name, []).append(row)
    return np.stack([np.mean(rows, axis=0) for rows in members.values()])


def run(module: GroupedDoubleAttention, x: np.ndarray, coords: np.ndarray | None = None) -> np.ndarray:
    place = None if coords is None else torch.from_numpy(coords).unsqueeze(0)
    with torch.no_grad():
        computed: np.ndarray = mixed(module, torch.from_numpy(x).unsqueeze(0), place)[0].numpy()
        return computed


def mixed(module: GroupedDoubleAttention, x: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    out: Tensor = module(x, Layout.of(x, coords, mask))
    return out


@pytest.mark.parametrize("grouping", ["strided", "region", "spatial"])
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("region_size", [3, 16])
def test_equals_the_formula_with_explicit_matrices(grouping: str, count: int, region_size: int) -> None:
    module, x = attention(grouping, region_size), instances(count)
    # one row of neighbours makes sure that the tile distance can be seen in the coordinates
    places = np.stack([np.arange(count), np.zeros(count, dtype=int)], axis=1) if count < 10 else tissue(count)
    expected = double_attention(module, x, tokens_one_by_one(grouping, x, places, region_size))
    np.testing.assert_allclose(run(module, x, places * 512), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("grouping", LIST_GROUPINGS)
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("region_size", [3, 16])
def test_published_padding_enters_means_and_softmaxes(grouping: str, count: int, region_size: int) -> None:
    module, x = attention(grouping, region_size, pad="published"), instances(count)
    side, region = grid(count, region_size)
    padded = np.concatenate([x, np.zeros((side * side - count, DIM))])
    regions = padded.reshape(side // region, region, side // region, region, DIM)
    tokens = regions.mean(axis=(0, 2) if grouping == "strided" else (1, 3)).reshape(-1, DIM)
    assert len(tokens) == (region**2 if grouping == "strided" else (side // region) ** 2)
    np.testing.assert_allclose(run(module, x), double_attention(module, padded, tokens)[:count], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("count", "side"), [(1, 2), (4, 2), (5, 4), (9, 4), (10, 16), (256, 16), (257, 32), (1025, 48)])
def test_side_of_the_grid(count: int, side: int) -> None:
    region, position = list_positions(side * side, 16) if count >= 10 else list_positions(count, 16, rows=side * side)
    assert grid(count, 16)[0] == gdat._side(count, 16) == side
    assert len(set(zip(region.tolist(), position.tolist(), strict=True))) == side * side


def test_groups_that_hold_only_padding_are_dropped() -> None:
    _, position = list_positions(257, 16)
    # a grid of side 32 holds 257 tiles in 8 whole lines and one tile: 8 x 16 + 1 of the 256 positions
    assert len(position.unique()) == 129
    _, position = list_positions(272, 16)
    assert len(position.unique()) == 144


@pytest.mark.parametrize("grouping", ["strided", "region", "spatial"])
def test_a_padded_batch_equals_its_single_bags(grouping: str) -> None:
    module, sizes = attention(grouping, 3), (1, 7, 30, 12)
    x = torch.full((4, 30, DIM), 7.0, dtype=torch.float64)
    coords, mask = torch.zeros(4, 30, 2, dtype=torch.int64), torch.zeros(4, 30, dtype=torch.bool)
    for b, count in enumerate(sizes):
        rows = torch.from_numpy(np.sort(np.random.default_rng(b).choice(30, count, replace=False)))  # padding anywhere
        x[b, rows], mask[b, rows] = torch.from_numpy(instances(count, b)), True
        coords[b, rows] = torch.from_numpy(tissue(count, b)) * 512
    x.requires_grad_(True)
    out = mixed(module, x, coords, mask)
    for b, count in enumerate(sizes):
        np.testing.assert_allclose(
            out[b, mask[b]].detach(), run(module, instances(count, b), tissue(count, b) * 512), rtol=0, atol=1e-12
        )
    assert (out[~mask] == 0).all()
    out.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all()
    assert (x.grad[mask].abs().sum(dim=1) > 0).all()


def test_a_bag_without_instances_gives_zeros() -> None:
    module = attention("strided")
    mask = torch.tensor([[True, True], [False, False]])
    out = mixed(module, torch.from_numpy(np.stack([instances(2), instances(2, 1)])), None, mask)
    assert (out[1] == 0).all()
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("grouping", ["strided", "region", "spatial"])
@pytest.mark.parametrize("count", [1, 2, 257])
def test_gradients_are_finite(grouping: str, count: int) -> None:
    module = attention(grouping)
    x = torch.from_numpy(instances(count)).unsqueeze(0).requires_grad_(True)
    mixed(module, x, torch.from_numpy(tissue(count)).unsqueeze(0)).sum().backward()
    grads = [x.grad, *(p.grad for p in module.parameters())]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_bags_of_a_batch_do_not_see_each_other() -> None:
    module, bags = attention("strided", 3), [instances(20, seed) for seed in range(3)]
    together = mixed(module, torch.from_numpy(np.stack(bags))).detach()
    for b, bag in enumerate(bags):
        np.testing.assert_allclose(together[b], run(module, bag), rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.randoms(use_true_random=False))
def test_rows_of_a_spatial_bag_may_come_in_any_order(count: int, side: int, random: object) -> None:
    module, x, places = attention("spatial", side), instances(count), tissue(count) * 512
    order = list(range(count))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_allclose(run(module, x[order], places[order]), run(module, x, places)[order], rtol=0, atol=1e-11)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 6),
    st.floats(1e-3, 1e4),
    st.tuples(st.integers(-(10**5), 10**5), st.integers(-(10**5), 10**5)),
)
def test_spatial_groups_know_no_unit_and_no_origin(count: int, side: int, unit: float, origin: tuple[int, int]) -> None:
    places = torch.from_numpy(tissue(count))
    moved = (places.double() + torch.tensor(origin)) * unit
    assert same_partition(spatial_groups(places, side), spatial_groups(moved, side))


def spatial_groups(places: Tensor, side: int) -> Tensor:
    groups: Tensor = Layout((1, len(places)), places.unsqueeze(0)).squares(side).of
    return groups


def same_partition(one: Tensor, other: Tensor) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(one.unique()) == len(other.unique())


def test_spatial_groups_are_squares_of_tiles() -> None:
    y, x = np.divmod(np.arange(8 * 8), 8)
    groups = spatial_groups(torch.from_numpy(np.stack([x, y], axis=1) * 224), 4).reshape(8, 8)
    assert len(groups.unique()) == 4
    for corner in (groups[:4, :4], groups[:4, 4:], groups[4:, :4], groups[4:, 4:]):
        assert len(corner.unique()) == 1


def test_a_bag_of_one_attends_to_itself() -> None:
    for grouping in ("strided", "region", "spatial"):
        module, x = attention(grouping), instances(1)
        v = x @ module.v.weight.detach().numpy().T
        expected = 1.1 * v @ module.proj.weight.detach().numpy().T + module.proj.bias.detach().numpy()
        np.testing.assert_allclose(run(module, x, np.array([[3, 5]])), expected, rtol=0, atol=1e-12)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="multiple of 5 heads"):
        GroupedDoubleAttention(Width(12, 5))
    with pytest.raises(ValueError, match="region_size"):
        GroupedDoubleAttentionOptions(region_size=0)
    with pytest.raises(ValueError, match="grouping"):
        GroupedDoubleAttentionOptions(grouping="rings")
    with pytest.raises(ValueError, match="groupings strided and region"):
        GroupedDoubleAttentionOptions(grouping="spatial", pad="published")
    with pytest.raises(BagError, match=r"model\.grouping"):
        mixed(attention("spatial"), torch.zeros(1, 3, DIM, dtype=torch.float64))
