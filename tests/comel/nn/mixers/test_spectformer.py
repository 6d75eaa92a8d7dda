"""Spectral gating against the authors' numbers, on a torus made of copies, and against what defines it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.block import Block
from comel.nn.layout.layout import Layout
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width
from comel.nn.mixers.spectformer import SpectFormer, SpectFormerOptions, SpectralGating
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight

SPECTRAL = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "filter.complex_weight": "filter.complex_weight",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "fc1.weight": "mlp.fc1.weight",
    "fc1.bias": "mlp.fc1.bias",
    "fc2.weight": "mlp.fc2.weight",
    "fc2.bias": "mlp.fc2.bias",
}


def wrapped(x: Tensor, height: int, width: int) -> tuple[Tensor, Layout]:
    """A grid (B, height * width, C) amid 8 copies of itself: for a kernel that reaches half of it, the middle is a torus."""
    copies = x.view(-1, height, width, x.shape[-1]).repeat(1, 3, 3, 1).flatten(1, 2)
    coords = grid_coords(3 * height, 3 * width).expand(len(x), -1, -1)
    return copies, Layout.of(copies, coords)


def middle(y: Tensor, height: int, width: int) -> Tensor:
    """The grid from amid its copies."""
    grid = y.view(-1, 3 * height, 3 * width, y.shape[-1])[:, height : 2 * height, width : 2 * width]
    return grid.reshape(len(grid), height * width, -1)


def close_to_the_largest(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def filtered(gating: SpectralGating, x: Tensor, coords: Tensor) -> Tensor:
    out: Tensor = gating(x, Layout.of(x[None], coords[None]))
    return out


def make(**options: object) -> SpectFormer:
    torch.manual_seed(0)
    return SpectFormer(Width(6, 2), SpectFormerOptions(**options)).double().eval()


@pytest.mark.parametrize(
    ("x", "y", "weight", "height", "width"),
    [("x", "y_filter", "w/spectral.filter.complex_weight", 6, 6), ("x2", "y2", "w2/complex_weight", 5, 7)],
)
def test_the_filter_equals_the_authors_numbers(x: str, y: str, weight: str, height: int, width: int) -> None:
    seed = Seed("spectformer")
    gating = SpectralGating(seed[x].shape[-1], height, width).double()
    set_weight(gating.complex_weight, seed[weight])
    copies, layout = wrapped(seed[x], height, width)
    found = layout.unpack(gating(layout.pack(copies), layout))
    close_to_the_largest(middle(found, height, width), seed[y])


def test_a_block_in_series_and_the_attention_after_it_equal_the_authors_numbers() -> None:
    seed = Seed("spectformer")
    width = Width(24, 6, mlp_ratio=2.0)
    spectral = make_mixer("spectformer", width, {"rows": 6, "columns": 6, "residuals": "series"})
    seed.load(spectral, SPECTRAL, "w/spectral.")
    copies, layout = wrapped(seed["x"], 6, 6)
    found = middle(spectral(copies, layout), 6, 6)
    close_to_the_largest(found, seed["y_spectral"])

    attention = Block(make_mixer("attention", width)).double()
    names = {name: f"mlp.{name}" for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}
    names |= {f"norm{i}.{kind}": f"norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    names |= {f"attention.proj.{kind}": f"attn.proj.{kind}" for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        for part, values in zip("qkv", seed[f"w/attention.attn.qkv.{kind}"].chunk(3), strict=True):
            seed.arrays[f"w/attention.attn.{part}.{kind}"] = values.numpy()
            names[f"attention.{part}.{kind}"] = f"attn.{part}.{kind}"
    seed.load(attention, names, "w/attention.")
    close_to_the_largest(attention(found, Layout.of(found)), seed["y"])


def test_in_parallel_it_is_two_residuals() -> None:
    mixer = make(rows=3, columns=4)
    x, coords = instances(30, 6), bag_coords(30)
    middle = x + filtered(mixer.filter, mixer.norm1(x), coords)
    expected = middle + mixer.fc2(torch.nn.functional.gelu(mixer.fc1(mixer.norm2(middle))))
    torch.testing.assert_close(mixed(mixer, x, coords), expected)


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (5, 3), (1, 1)])
def test_is_a_convolution_by_signed_lags(rows: int, columns: int) -> None:
    gating, x, coords = SpectralGating(2, rows, columns).double(), instances(40, 2), bag_coords(40)
    kappa = torch.fft.irfft2(torch.view_as_complex(gating.complex_weight.detach()).permute(2, 0, 1), s=(rows, columns))
    cells = (coords - coords.amin(dim=0)) // 256
    expected = torch.zeros_like(x)
    for p in range(40):
        for q in range(40):
            column, row = (cells[p] - cells[q]).tolist()
            if -(rows // 2) <= row < rows - rows // 2 and -(columns // 2) <= column < columns - columns // 2:
                expected[p] += kappa[:, row % rows, column % columns] * x[q]
    torch.testing.assert_close(filtered(gating, x, coords), expected)


def test_a_filter_of_ones_changes_nothing() -> None:
    gating, x = SpectralGating(3, 6, 7).double(), instances(40, 3)
    with torch.no_grad():
        gating.complex_weight.copy_(torch.tensor([1.0, 0.0]).expand_as(gating.complex_weight))
    torch.testing.assert_close(filtered(gating, x, bag_coords(40)), x)


def test_channels_do_not_see_each_other() -> None:
    gating, x, coords = SpectralGating(5, 4, 4).double(), instances(40, 5), bag_coords(40)
    other = x.clone()
    other[:, 2] += 1
    changed = (filtered(gating, other, coords) - filtered(gating, x, coords)).abs().amax(dim=0) > 1e-12
    assert changed.tolist() == [False, False, True, False, False]


def test_tissue_far_away_changes_nothing() -> None:
    mixer, x, coords = make(), instances(30, 6), bag_coords(30)
    far = torch.cat([coords, coords.amax(dim=0, keepdim=True) + 256 * 100_000])
    found = mixed(mixer, torch.cat([x, x[:1]]), far)[:30]
    torch.testing.assert_close(found, mixed(mixer, x, coords))


def test_without_gradients_it_is_the_same() -> None:
    mixer, x, coords = make(), instances(30, 6), bag_coords(30)
    with torch.no_grad():
        found = mixed(mixer, x, coords)
    torch.testing.assert_close(mixed(mixer, x, coords), found, rtol=0, atol=1e-12)
