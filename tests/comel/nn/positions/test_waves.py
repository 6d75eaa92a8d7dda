"""Sines and cosines of places."""

from __future__ import annotations

import torch

from comel.nn.positions.waves import waves


def test_sines_then_cosines_of_every_axis() -> None:
    places, frequencies = torch.tensor([[0, 2], [5, 1]]), torch.tensor([1.0, 0.5], dtype=torch.float64)
    found = waves(places, frequencies, torch.float64)
    phases = torch.tensor([[0.0, 0.0, 2.0, 1.0], [5.0, 2.5, 1.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, torch.cat([phases.sin(), phases.cos()], dim=1))


def test_half_precision_keeps_the_phase() -> None:
    places = torch.arange(2000).unsqueeze(1)
    half, single = (waves(places, torch.tensor([torch.pi]), dtype) for dtype in (torch.bfloat16, torch.float32))
    assert (half.float() - single).abs().max() < 0.01
