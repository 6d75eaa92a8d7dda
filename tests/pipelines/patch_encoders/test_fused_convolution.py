"""A fused convolution against torch's own padding, convolution and ReLU6."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pipelines.patch_encoders.fused_convolution import FusedConvolution


@given(
    seed=st.integers(0, 99),
    kernel=st.sampled_from([(1, 0, 0), (3, 1, 1), (3, 0, 1), (5, 2, 2), (5, 1, 2)]),
    stride=st.integers(1, 2),
    depthwise=st.booleans(),
    relu6=st.booleans(),
    own_operators=st.booleans(),
)
def test_it_pads_convolves_and_clamps(
    seed: int, kernel: tuple[int, int, int], stride: int, depthwise: bool, relu6: bool, own_operators: bool
) -> None:
    torch.manual_seed(seed)
    size, before, after = kernel
    maps = 4 * torch.randn(2, 4, 8, 8)
    weight, bias = torch.randn(4 if depthwise else 6, 1 if depthwise else 4, size, size), torch.randn(4 if depthwise else 6)
    groups = 4 if depthwise else 1
    step = FusedConvolution(
        weight, bias, stride=stride, before=before, after=after, groups=groups, relu6=relu6, own_operators=own_operators
    )
    expected = functional.conv2d(functional.pad(maps, (before, after) * 2), weight, bias, stride, groups=groups)
    if relu6:
        expected = expected.clamp(0, 6)
    kept = maps.clone()
    assert torch.allclose(step(maps.contiguous(memory_format=torch.channels_last)), expected, atol=1e-4)
    assert torch.equal(maps, kept)


def test_the_operator_is_used_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"stride": 1, "before": 0, "after": 0, "relu6": True}
    step = FusedConvolution(torch.ones(1, 1, 1, 1), torch.zeros(1), **made, own_operators=True)  # type: ignore[arg-type]
    assert step._operators is not None
    assert step._operators[0] is torch.ops.mkldnn._convolution_pointwise.default
    monkeypatch.delattr(torch.ops.mkldnn, "_convolution_pointwise")
    monkeypatch.setattr(type(torch.ops.mkldnn), "__getattr__", lambda self, name: object.__getattribute__(self, name))
    step = FusedConvolution(torch.ones(1, 1, 1, 1), torch.zeros(1), **made, own_operators=True)  # type: ignore[arg-type]
    assert step._operators is None
    assert step(torch.full((1, 1, 1, 1), 9.0)).item() == 6
