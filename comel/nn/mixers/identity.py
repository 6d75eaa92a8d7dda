"""No mixing and no change: what a network's feed-forward parts are worth alone."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer

__all__ = ["Identity"]


class Identity(Mixer):
    """``out = 0``: the instances pass the block's residual unchanged."""

    name: ClassVar[str] = "identity"
    card: ClassVar[Card] = Card(
        title="nothing; the block's feed-forward part alone",
        sees="instance",
        reach="none",
        exponent=1.0,
        coords="ignored",
        holes="never looked at",
        paper="a baseline",
        licence="this project's",
        numbers="equations",
        ordered_without=False,
    )

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """Zeros, (N, dim)."""
        return x * 0
