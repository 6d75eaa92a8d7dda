"""DeFTAN-II's block against the authors' numbers, and against what defines its parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.mixers import deftan2
from comel.nn.mixers.base import Width
from comel.nn.mixers.deftan2 import DPFN, ConvolvedEfficientAttention, DeFTAN2, DeFTAN2Options, Half, SplitDenseBlock
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed

PARTS = {
    "norm.weight": "norm.gamma",
    "norm.bias": "norm.beta",
    "cea_norm": "att.norm",
    "cea.conv": "att.fn.cv_qk.0",
    "cea.q": "att.fn.to_q",
    "cea.k": "att.fn.to_k",
    "cea.v": "att.fn.to_v",
    "cea.out": "att.fn.to_out.0",
    "dpfn_norm": "ffw.norm",
    "dpfn.plain": "ffw.fn.PW1.0",
    "dpfn.convolved": "ffw.fn.PW2.0",
    "dpfn.conv": "ffw.fn.DW_Conv.0",
    "dpfn.norm": "ffw.fn.DW_Conv.1",
    "dpfn.activation": "ffw.fn.DW_Conv.2",
    "dpfn.out": "ffw.fn.PW3.0",
    "back": "linear",
}
PARTS |= {
    f"sdb.{part}.{i}": f"inv.blocks.{i}.{j}"
    for i in range(4)
    for j, part in enumerate(("convolutions", "norms", "activations"))
}


def published(stride: int = 1) -> tuple[Seed, DeFTAN2]:
    seed = Seed("deftan2")
    options = DeFTAN2Options(channels=0, heads=2, head_dim=8, stride=stride, dilation=2)
    mixer = DeFTAN2(Width(16, 2, mlp_ratio=1.0), options).eval()
    for half in "FT":
        for kind in ("gamma", "beta"):
            seed.arrays[f"w/{half}_norm.{kind}"] = seed.arrays[f"w/{half}_norm.{kind}"].reshape(16)
    names = {}
    for own, _ in mixer.named_parameters():
        half, _, part = own.partition(".")
        name, _, kind = part.rpartition(".")
        stored = PARTS[part] if part in PARTS else f"{PARTS[name]}.{kind}"
        names[own] = f"{'F' if half == 'along_rows' else 'T'}_{stored}"
    seed.load(mixer, names)
    return seed, mixer


def tiles(x: Tensor) -> Tensor:
    """(1, C, T, Q) -> (T Q, C), row by row."""
    return x[0].flatten(1).T


def make(**options: object) -> DeFTAN2:
    torch.manual_seed(0)
    chosen = DeFTAN2Options(**{"channels": 0, "heads": 2, "head_dim": 3, **options})
    mixer = DeFTAN2(Width(6, 2, mlp_ratio=2.0), chosen).double().eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return mixer


def test_equals_the_authors_numbers() -> None:
    seed, mixer = published()
    found = mixed(mixer, tiles(seed["x"]), grid_coords(7, 9))
    torch.testing.assert_close(found, tiles(seed["y"]), rtol=1e-10, atol=1e-10)


def test_a_step_of_two_equals_the_authors_numbers_without_the_column_they_append() -> None:
    seed, mixer = published(stride=2)
    found = mixed(mixer, tiles(seed["x2"]), grid_coords(6, 7))
    torch.testing.assert_close(found, tiles(seed["y2"][..., :7]), rtol=1e-10, atol=1e-10)


def test_its_parts_equal_the_authors_numbers() -> None:
    seed, mixer = published()
    half, there = mixer.along_rows, torch.ones(7, 1, 6, dtype=torch.float64)
    normalised = half.norm(seed["x"][0].permute(1, 2, 0)).mT  # (T, C, Q)
    u = half.sdb([normalised[..., tap : tap + 6] for tap in range(4)], there)
    torch.testing.assert_close(u, seed["y_F_sdb"], rtol=1e-10, atol=1e-10)
    change = half.cea(half.cea_norm(u.mT), there)
    torch.testing.assert_close(change, seed["y_F_cea"], rtol=1e-10, atol=1e-10)
    change = half.dpfn(half.dpfn_norm(u.mT + change), there)
    torch.testing.assert_close(change, seed["y_F_dpfn"], rtol=1e-10, atol=1e-10)


def attention_without_neighbours() -> ConvolvedEfficientAttention:
    torch.manual_seed(0)
    attention = ConvolvedEfficientAttention(5, 2, 3).double()
    with torch.no_grad():
        attention.conv.weight.zero_()
        for channel in range(10):
            attention.conv.weight[channel, channel % 5, 1] = 1
    return attention


def test_the_attention_is_a_product_of_softmaxes() -> None:
    attention, u = attention_without_neighbours(), instances(9, 5)
    q, k = (linear(u * torch.sigmoid(u)).view(9, 2, 3).transpose(0, 1) for linear in (attention.q, attention.k))
    v = attention.v(u).view(9, 2, 3).transpose(0, 1)
    weights = F.softmax(q, dim=-1) @ F.softmax(k, dim=1).mT * 3**-0.5  # (heads, 9, 9)
    expected = attention.out((weights @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(attention(u[None], torch.ones(1, 1, 9, dtype=torch.float64))[0], expected)


def test_without_neighbours_the_attention_knows_no_order_and_no_number() -> None:
    attention, u = attention_without_neighbours(), instances(9, 5)
    there = torch.ones(1, 1, 18, dtype=torch.float64)
    out = attention(u[None], there[..., :9])[0]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(u[order][None], there[..., :9])[0], out[order])
    torch.testing.assert_close(attention(u.repeat(2, 1)[None], there)[0, :9], out)


@pytest.mark.parametrize("part", ["sdb", "cea", "dpfn"])
def test_padding_changes_nothing(part: str) -> None:
    torch.manual_seed(0)
    u = instances(11, 4)
    there = torch.ones(1, 1, 11, dtype=torch.float64)
    there[..., 7:] = 0

    def run(rows: Tensor, real: Tensor) -> Tensor:
        torch.manual_seed(1)
        if part == "sdb":
            windows: Tensor = SplitDenseBlock(4).double()([rows[None].mT * real] * 4, real)
            return windows[0].mT
        module = DPFN(4, 6, 2) if part == "dpfn" else ConvolvedEfficientAttention(4, 2, 3)
        out: Tensor = module.double()(rows[None], real)[0]
        return out

    torch.testing.assert_close(run(u, there)[:7], run(u[:7], there[..., :7]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_padded_sequences_are_the_sequences_alone(stride: int) -> None:
    torch.manual_seed(0)
    half = Half(6, DeFTAN2Options(heads=2, head_dim=3, stride=stride), Width(6, 2)).double()
    lengths = torch.tensor([1, 2, 3, 4, 5, 8, 11])
    s = instances(7 * 11, 6).view(7, 11, 6)
    out = half(s, torch.arange(11) < lengths[:, None])
    for number, length in enumerate(lengths.tolist()):
        alone = half(s[number : number + 1, :length], torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(out[number, :length], alone[0], rtol=0, atol=1e-12)
        assert torch.isfinite(alone).all()


@pytest.mark.parametrize("gaps", ["cut", "join"])
def test_a_row_sees_itself_then_its_columns(gaps: str) -> None:
    mixer, x, coords = make(gaps=gaps), instances(40, 6), bag_coords(40)
    with torch.no_grad():
        for parameter in mixer.along_columns.back.parameters():
            parameter.zero_()  # the second half changes nothing
    other = x.clone()
    other[5] += instances(1, 6, seed=3)[0]
    changed = (mixed(mixer, other, coords) - mixed(mixer, x, coords)).abs().amax(dim=1) > 1e-12
    cells = (coords - coords.amin(dim=0)) // 256
    same_row = cells[:, 1] == cells[5, 1]
    if gaps == "join":
        assert torch.equal(changed, same_row)
        return
    columns = set(cells[same_row, 0].tolist())
    near = {int(cells[5, 0])}
    while (wider := {c for c in columns if c in near or c - 1 in near or c + 1 in near}) != near:
        near = wider
    assert torch.equal(changed, same_row & torch.tensor([int(c) in near for c in cells[:, 0]]))


def test_the_whole_block_reaches_rows_that_a_column_crosses() -> None:
    mixer, x = make(), instances(20, 6).requires_grad_(True)
    mixed(mixer, x, grid_coords(4, 5))[0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_pieces_far_apart_in_both_axes_are_the_pieces_alone() -> None:
    mixer, x, coords = make(), instances(40, 6), bag_coords(20)
    both = torch.cat([coords, coords + 256 * 50_000])
    out = mixed(mixer, x, both)
    torch.testing.assert_close(out[:20], mixed(mixer, x[:20], coords))
    torch.testing.assert_close(out[20:], mixed(mixer, x[20:], coords))


@pytest.mark.parametrize("tiles_at_once", [1, 7])
def test_slices_do_not_matter(monkeypatch: pytest.MonkeyPatch, tiles_at_once: int) -> None:
    mixer, x, coords = make(), instances(40, 6), bag_coords(40)
    expected = mixed(mixer, x, coords)
    monkeypatch.setattr(deftan2, "_TILES_AT_ONCE", tiles_at_once)
    torch.testing.assert_close(mixed(mixer, x, coords), expected)


def test_a_narrow_block_is_added_to_the_instances() -> None:
    mixer, x, coords = make(channels=4), instances(20, 6), bag_coords(20)
    assert mixer.along_rows.norm.weight.shape == (4,)
    with torch.no_grad():
        mixer.up.weight.zero_()
        mixer.up.bias.zero_()
    torch.testing.assert_close(mixed(mixer, x, coords), x)
