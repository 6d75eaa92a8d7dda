"""A second feed-forward part where a mixer would stand: as many parameters, and no instance sees another.

What a mixer has to beat.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["MLP", "MLPOptions"]


class MLPOptions(MixerOptions):
    """Settings of the mixer."""

    ratio: float = Field(2.0, gt=0, le=64, description="hidden width over dim; 2 has the parameters of an attention")


class MLP(Mixer):
    """``out = W_2 gelu(W_1 x + b_1) + b_2``."""

    name: ClassVar[str] = "mlp"
    Options = MLPOptions
    card: ClassVar[Card] = Card(
        title="a feed-forward part of an attention's size",
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

    def __init__(self, width: Width, options: MLPOptions | None = None) -> None:
        super().__init__(width, options)
        hidden = int(width.dim * self.options.ratio)
        self.fc1 = nn.Linear(width.dim, hidden)
        self.fc2 = nn.Linear(hidden, width.dim)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the class; (N, dim) -> (N, dim)."""
        out: Tensor = self.dropout(self.fc2(F.gelu(self.fc1(x))))
        return out
