"""The Nystrom mixer: attention along the curve."""

from __future__ import annotations

import torch

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Width
from comel.nn.mixers.nystrom import Nystrom, NystromOptions
from tests.comel.nn.mixers.seeds import bag_coords, instances, mixed, set_weight


def make(landmarks: int) -> Nystrom:
    torch.manual_seed(0)
    return Nystrom(Width(12, 3), NystromOptions(landmarks=landmarks)).double()


def test_follows_the_curve() -> None:
    mixer, x, coords = make(4), instances(30, 12), bag_coords(30)
    order = Layout((1, 30), coords[None]).curve()
    torch.testing.assert_close(mixed(mixer, x, coords)[order], mixed(mixer, x[order]))
    torch.testing.assert_close(mixed(mixer, x), mixer.attention(x[None])[0][0])


def test_as_many_landmarks_as_instances_are_exact() -> None:
    mixer, x = make(30), instances(30, 12)
    set_weight(mixer.attention.residual.kernels.weight, torch.zeros_like(mixer.attention.residual.kernels.weight))
    q, k, v = (linear(x).view(30, 3, 4).transpose(0, 1) for linear in (mixer.attention.q, mixer.attention.k, mixer.attention.v))
    expected = mixer.attention.proj(((q @ k.mT / 2).softmax(dim=-1) @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(mixed(mixer, x, bag_coords(30)), expected)
