"""Nystrom attention along a curve over the slide (Xiong et al., AAAI 2021, arXiv 2102.03902; used on slides by TransMIL).

Softmax attention through landmarks, the means of even stretches of a sequence, with a convolution of the values along it;
equations and what differs from the published code: :mod:`comel.nn.nystrom`. The sequence is a Hilbert curve over the tiles,
so that a stretch is a patch of tissue and the convolution spans tiles that lie near each other; without coordinates it is
the list.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.nystrom import NystromAttention

__all__ = ["Nystrom", "NystromOptions"]


class NystromOptions(MixerOptions):
    """Settings of the mixer."""

    landmarks: int = Field(256, ge=1, le=65536, description="landmarks of a bag; a smaller bag attends exactly")


class Nystrom(Mixer):
    """See the module."""

    name: ClassVar[str] = "nystrom"
    Options = NystromOptions
    card: ClassVar[Card] = Card(
        title="through landmarks, the means of stretches of a curve over the slide",
        sees="list",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="the curve passes over them",
        paper="Xiong et al., AAAI 2021, arXiv 2102.03902",
        licence="MIT",
        numbers="equations",
    )

    def __init__(self, width: Width, options: NystromOptions | None = None) -> None:
        super().__init__(width, options)
        self.attention = NystromAttention(width.dim, width.heads, self.options.landmarks, width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        order = layout.curve()
        bags = x[order].split(layout.counts.tolist())
        mixed = torch.cat([self.attention(bag[None])[0][0] for bag in bags if len(bag)])
        return torch.empty_like(mixed).index_copy(0, order, mixed)
