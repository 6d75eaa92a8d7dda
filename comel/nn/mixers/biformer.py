"""Bi-level routing attention (Zhu, Wang, Ke, Zhang, Lau, "BiFormer", CVPR 2023, arXiv 2303.08810).

Each region chooses the k regions that answer it best, and its tiles attend to all tiles of these, exactly:

    q, k, v = x W_q + b_q, x W_k + b_k, x W_v + b_v                       (M, dim)
    I_p     = the k regions r with the largest mean_p(q) . mean_r(k)      over all channels, without a gradient
    a_i     = softmax(dim^-1/2 q_i K^T) V                                 per head, keys and values of the tiles in I_p
    out     = (a + conv5x5(v)) W_o + b_o

A region need not choose itself. The scale is that of the whole width, as published; ``scale`` gives a head's own instead. The
depthwise convolution goes over the slide's tiles, and a hole adds nothing to it; without coordinates it is left out.

A region is a square of r x r tiles, with the 1 to r^2 tiles that there are; means and softmaxes run over these, and a region
without a tile does not exist. (The published code pads the map with zeros, which take part in the softmax.) Without coordinates
a region is a stretch of r^2 tiles of the list. Choosing costs the square of the number of regions, attending k r^2 keys a tile.
With ``region_size`` = 0 they balance, r = (2 M / k)^(1/6), and the time grows as M^(4/3), as in the paper.

The published block adds a depthwise convolution of x in front of its first norm; it is left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_between, join, split
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout, PerBag
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["BiFormer", "BiFormerOptions", "route"]

_LOGITS_AT_ONCE = 1 << 24


class BiFormerOptions(MixerOptions):
    """Settings of the mixer."""

    region_size: int = Field(0, ge=0, le=64, description="side of a region, in tiles; 0: grows with the bag")
    topk: int = Field(4, ge=1, le=64, description="regions that a region attends to")
    kernel: Literal[0, 3, 5, 7] = Field(5, description="side of the convolution of the values, in tiles; 0: none")
    scale: Literal["dim", "head"] = Field("dim", description="logits are divided by the square root of this width")
    qkv_bias: bool = Field(True, description="biases in q, k and v")


class BiFormer(Mixer):
    """See the module."""

    name: ClassVar[str] = "biformer"
    Options = BiFormerOptions
    card: ClassVar[Card] = Card(
        title="regions choose regions, tiles attend to all tiles of the chosen ones",
        sees="grid",
        reach="global",
        exponent=4 / 3,
        coords="used",
        holes="in no region; add nothing to the convolution; regions without a tile do not exist",
        paper="Zhu et al., CVPR 2023, arXiv 2303.08810",
        licence="MIT",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: BiFormerOptions | None = None) -> None:
        super().__init__(width, options)
        dim, bias = width.dim, self.options.qkv_bias
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=bias)
        self.v = nn.Linear(dim, dim, bias=bias)
        self.convolution = SparseDepthwise(dim, self.options.kernel) if self.options.kernel else None
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        heads = self.width.heads
        regions = layout.regions(self._side(layout))
        q, k, v = self.q(x), self.k(x), self.v(x)  # (N, dim)
        chosen = route(q, k, regions, self.options.topk)  # (G, topk)
        scale = (self.width.dim // (1 if self.options.scale == "dim" else heads)) ** -0.5
        out = join(attend_between(split(q, heads), split(k, heads), split(v, heads), regions, chosen, scale=scale))
        if self.convolution is not None and layout.placed:
            out = out + self.convolution(v, layout)
        mixed: Tensor = self.dropout(self.proj(out))
        return mixed

    def _side(self, layout: Layout) -> PerBag:
        fixed: int = self.options.region_size
        return fixed or layout.per_bag(lambda count: max(1, round((2 * count / self.options.topk) ** (1 / 6))))


@torch.no_grad()
def route(q: Tensor, k: Tensor, regions: Segments, topk: int) -> Tensor:
    """The regions that each region attends to.

    Args:
        q, k: (N, dim).
        regions: of the N rows, each in one bag.
        topk: how many to choose; fewer where a bag has fewer.

    Returns:
        (G, topk), best first, of equal ones the first; -1 where the bag has no more.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    asking, answering = regions.mean(q.to(wide)), regions.mean(k.to(wide))  # (G, dim)
    chosen = torch.full((len(regions), topk), -1, device=q.device)
    first = 0
    for count in torch.bincount(regions.bag).tolist():  # the regions of a bag follow each other
        own = slice(first, first + count)
        for rows in torch.arange(first, first + count, device=q.device).split(max(1, _LOGITS_AT_ONCE // max(1, count))):
            with torch.autocast(q.device.type, enabled=False):
                logits = asking[rows] @ answering[own].T  # (rows, count)
            for number in range(min(topk, count)):
                best = logits.argmax(dim=1, keepdim=True)  # the first of equal ones
                chosen[rows, number] = first + best.squeeze(1)
                logits.scatter_(1, best, -torch.inf)
        first += count
    return chosen
