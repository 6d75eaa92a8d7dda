"""DLGSANet's halves against the authors' numbers and against what defines them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers import dlgsanet
from comel.nn.mixers.base import Width
from comel.nn.mixers.dlgsanet import DLGSANet, DLGSANetOptions, DynamicConvolution, SparseChannelAttention
from tests.comel.nn.mixers.seeds import Seed, bag_coords, grid_coords, instances, mixed, set_weight


def rows_of(maps: Tensor) -> Tensor:
    """(1, C, h, w) -> (h w, C)."""
    return maps[0].flatten(1).T


def from_seed(seed: Seed) -> DLGSANet:
    mixer = DLGSANet(Width(16, 2), DLGSANetOptions(kernel=5, kernel_groups=2)).double()
    names = {
        "norm1": "0.norm1.body", "norm2": "0.norm2.body", "norm3": "1.norm3.body", "norm4": "1.norm4.body",
        "local.value": "0.IDynamicDWConv.conv0", "local.reduce": "0.IDynamicDWConv.conv.conv1.0",
        "local.around": "0.IDynamicDWConv.conv.conv1.1", "local.make": "0.IDynamicDWConv.conv.conv2.0",
        "local.proj": "0.IDynamicDWConv.conv1", "local_mlp.project_in": "0.IDynamic_ffn.project_in",
        "local_mlp.around": "0.IDynamic_ffn.dwconv", "local_mlp.project_out": "0.IDynamic_ffn.project_out",
        "channels.qkv": "1.restormer_attn.qkv", "channels.around": "1.restormer_attn.qkv_dwconv",
        "channels.proj": "1.restormer_attn.project_out", "channels_mlp.project_in": "1.restormer_ffn.project_in",
        "channels_mlp.around": "1.restormer_ffn.dwconv", "channels_mlp.project_out": "1.restormer_ffn.project_out",
    }  # fmt: skip
    for own, theirs in names.items():
        for kind in ("weight", "bias"):
            if f"w/body.{theirs}.{kind}" in seed:
                parameter = mixer.get_parameter(f"{own}.{kind}")
                set_weight(parameter, seed[f"w/body.{theirs}.{kind}"].view_as(parameter))
    set_weight(mixer.channels.temperature, seed["w/body.1.restormer_attn.temperature"].flatten())
    return mixer


@pytest.mark.parametrize("at_once", [8_192, 10])
def test_equals_the_authors_numbers(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlgsanet, "_ROWS_AT_ONCE", at_once)
    seed = Seed("dlgsanet")
    mixer, layout = from_seed(seed), Layout((1, 63), grid_coords(7, 9)[None])
    for module, given, expected in (
        (mixer.local, "y_mhdlsa_in", "y_mhdlsa"),
        (mixer.channels, "y_gsa_in", "y_gsa"),
    ):
        found = module(rows_of(seed[given]), layout)
        torch.testing.assert_close(found, rows_of(seed[expected]), rtol=1e-10, atol=1e-11)
    found = mixed(mixer, rows_of(seed["x"]), grid_coords(7, 9))
    torch.testing.assert_close(found, rows_of(seed["y_global_block"]), rtol=1e-10, atol=1e-10)


def test_a_fixed_kernel_is_an_ordinary_convolution() -> None:
    module = DynamicConvolution(8, 3, 2).double()
    kernel = torch.randn(2, 9, dtype=torch.float64)
    set_weight(module.make.weight, torch.zeros_like(module.make.weight))
    set_weight(module.make.bias, kernel.flatten())
    x, coords = instances(30, 8), bag_coords(30)
    layout = Layout((1, 30), coords[None])
    v = torch.cat([module.value(x), torch.zeros(1, 8, dtype=torch.float64)])
    expected = torch.zeros(30, 8, dtype=torch.float64)
    for row, around in enumerate(layout.neighbours(3).tolist()):
        for tap, other in enumerate(around):
            expected[row] += v[other] * kernel[:, tap].repeat_interleave(4)
    torch.testing.assert_close(module(x, layout), module.proj(expected))


def test_the_same_tissue_twice_and_channels_that_disagree() -> None:
    module, x = SparseChannelAttention(12, 3).double(), instances(20, 12)
    once = module(x, Layout((1, 20)))
    torch.testing.assert_close(module(torch.cat([x, x]), Layout((1, 40)))[:20], once)
    qkv = module.qkv.weight
    set_weight(qkv, torch.cat([qkv[:12], qkv[:12], qkv[24:]]))  # k = q
    set_weight(module.temperature, -torch.ones_like(module.temperature))
    q = module.qkv(x)[:, :12].view(20, 3, 4)
    between = module._between(q, q)
    assert (between.diagonal(dim1=1, dim2=2) == 0).all()
    assert (between >= 0).all()


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="kernel_groups"):
        DLGSANet(Width(12, 3), DLGSANetOptions(kernel_groups=5))
    with pytest.raises(ValueError, match="odd"):
        DLGSANet(Width(16, 2), DLGSANetOptions(kernel=4))
