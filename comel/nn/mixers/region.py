"""Regional and cross-regional attention (RRT-MIL's R-MSA and CR-MSA, Tang et al., CVPR 2024, arXiv 2402.17228), by place.

    h <- h + R-MSA(LN h);  h <- h + CR-MSA(LN h)

R-MSA: attention within each region, softmax(L + conv(L)) V with L = Q K^T / sqrt d. The convolution (EPEG) runs along the
queries, in the order of their places in the region, one kernel per head. Since L is linear in Q, this is attention with the
queries Q + conv(Q), which stores no logits; the published bias is one constant per head, which a softmax does not see.

CR-MSA: k representatives of each region attend to those of the other regions, and are handed back:

    S = h Phi                                        (M, k)
    r_k = sum_p softmax_p(S)_pk h_p  over the region's tiles p;  r_k <- self-attention over the bag's regions, for each k
    out_p = sum_k softmax_k(S)_pk minmax_p(S)_pk r_k

Here minmax puts the smallest S of a region at 0 and the largest at 1, so a tile that is alone in its region gets nothing from
the others. There is no feed-forward part, as published.

The published regions cut a square that the tile list fills, eight along a side, with zeros at its end. Here a region is a
square of r x r tiles of the slide, so the time grows with the tiles; a hole adds nothing to the convolution and takes part in
no softmax, and squares without a tile do not exist. Without coordinates a region is a stretch of r^2 tiles of the list. The
mixer is built from equations.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.convolution import weigh
from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["RegionReembedding", "RegionReembeddingOptions"]

_NO_SPREAD = 1e-8


class RegionReembeddingOptions(MixerOptions):
    """Settings of the mixer."""

    region_size: int = Field(16, ge=1, le=64, description="side of a region, in tiles")
    position_kernel: int = Field(15, ge=1, le=255, description="places that the position encoding spans; odd")
    representatives: int = Field(3, ge=1, le=64, description="vectors by which a region meets the others")

    @field_validator("position_kernel")
    @classmethod
    def _kernel_has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("give an odd number")
        return kernel


class _Attention(nn.Module):
    """Multi-head self-attention within segments.

    Args:
        width: of the tokens.
        kernel: places that EPEG spans; 0 for none.
    """

    def __init__(self, width: Width, kernel: int = 0) -> None:
        super().__init__()
        dim, self.heads = width.dim, width.heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        bound = kernel**-0.5 if kernel else 0.0
        self.positions = nn.Parameter(torch.empty(self.heads, kernel).uniform_(-bound, bound)) if kernel else None
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(width.dropout)

    def forward(self, x: Tensor, segments: Segments, along: Tensor | None = None) -> Tensor:
        """x (N, dim), the rows before and after each (N, kernel) for EPEG -> (N, dim)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.positions is not None and along is not None:
            taps = self.positions.repeat_interleave(x.shape[1] // self.heads, dim=0).T.contiguous()  # (kernel, dim)
            q = (q + weigh(q, along, taps)).to(k.dtype)
        q, k, v = (split(part, self.heads) for part in (q, k, v))
        mixed: Tensor = self.dropout(self.proj(join(attend_segments(q, k, v, segments))))
        return mixed


class RegionReembedding(Mixer):
    """See the module."""

    name: ClassVar[str] = "region"
    Options = RegionReembeddingOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="within regions, then between representatives of the regions",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no region; add nothing to the convolution; regions without a tile do not exist",
        paper="Tang et al., CVPR 2024, arXiv 2402.17228",
        licence="none stated",
        numbers="equations",
    )

    def __init__(self, width: Width, options: RegionReembeddingOptions | None = None) -> None:
        super().__init__(width, options)
        self.norm1 = nn.LayerNorm(width.dim)
        self.within = _Attention(width, self.options.position_kernel)
        self.norm2 = nn.LayerNorm(width.dim)
        self.phi = nn.Linear(width.dim, self.options.representatives, bias=False)
        self.across = _Attention(width)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        size = self.options.region_size
        regions = layout.regions(size)
        x = x + self.within(self.norm1(x), regions, layout.along_regions(size, self.options.position_kernel))
        mixed: Tensor = x + self._between(self.norm2(x), regions)
        return mixed

    def _between(self, h: Tensor, regions: Segments) -> Tensor:
        """CR-MSA, (N, dim) -> (N, dim)."""
        logits = self.phi(h)  # (N, k)
        given, number = regions.softmax(logits), logits.shape[1]
        met = torch.stack([regions.sum(given[:, j : j + 1] * h) for j in range(number)])  # (k, G, dim)
        bag = regions.bag.repeat(number)
        of = torch.arange(number, device=h.device).repeat_interleave(len(regions)) + bag * number
        met = self.across(met.flatten(0, 1), Segments(of, bag)).view_as(met)  # (k, G, dim)
        high, low = regions.max(logits)[regions.of], -regions.max(-logits)[regions.of]  # (N, k)
        share = (logits - low) / (high - low + _NO_SPREAD) * torch.softmax(logits, dim=-1)  # (N, k)
        out: Tensor = share[:, :1] * met[0, regions.of]
        for j in range(1, number):
            out = out + share[:, j : j + 1] * met[j, regions.of]
        return out
