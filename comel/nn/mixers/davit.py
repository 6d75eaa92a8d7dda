"""DaViT's dual attention (Ding et al., ECCV 2022, arXiv 2204.03645): over tiles in windows, then over channels.

    x <- x + DW(x);  x <- x + A_s(LN x);  x <- x + DW'(x);  x <- x + MLP(LN x)        spatial half
    the same with A_c and its own weights                                              channel half

A_s is softmax attention within windows of w x w tiles. A_c lets the channels of a group attend to each other, each channel's
values over the whole bag being a token:

    S = softmax_over_v( c^-1/2 sum_m k_m v_m^T )     (c, c) per group of c channels
    out_m = S q_m

so that every instance receives a mixture of its own channels which the whole bag decides: linear, global and blind to order.
DW are depthwise convolutions over the 3 x 3 tiles around each.

The sum over m grows with the bag, and a softmax of it becomes one-hot. ``scale`` divides it by sqrt(M) ("tokens", the
default here), by M / ``reference`` after c^-1/2 ("mean"), or not at all ("channels", as published). Windows hold the tiles
that there are; the published code attends to padding too. Without coordinates windows are stretches of the list and the
convolutions are left out.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.sublayer import FeedForward

__all__ = ["ChannelAttention", "DaViT", "DaViTOptions", "WindowAttention"]

_ROWS_AT_ONCE = 16_384


class DaViTOptions(MixerOptions):
    """Settings of the mixer."""

    window: int = Field(7, ge=1, le=64, description="side of a window, in tiles")
    scale: Literal["tokens", "mean", "channels"] = Field("tokens", description="what the channels' logits are divided by")
    reference: float = Field(196.0, gt=0, description="instances for which 'mean' is as published")
    qkv_bias: bool = Field(True, description="biases in q, k and v")


class WindowAttention(nn.Module):
    """A_s, see the module."""

    def __init__(self, width: Width, options: DaViTOptions) -> None:
        super().__init__()
        self.heads, self.window = width.heads, options.window
        self.qkv = nn.Linear(width.dim, 3 * width.dim, bias=options.qkv_bias)
        self.proj = nn.Linear(width.dim, width.dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        out: Tensor = self.proj(join(attend_segments(q, k, v, layout.regions(self.window))))
        return out


class ChannelAttention(nn.Module):
    """A_c, see the module."""

    def __init__(self, width: Width, options: DaViTOptions) -> None:
        super().__init__()
        self.groups, self.options = width.heads, options
        self.qkv = nn.Linear(width.dim, 3 * width.dim, bias=options.qkv_bias)
        self.proj = nn.Linear(width.dim, width.dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        q, k, v = (split(part, self.groups) for part in self.qkv(x).chunk(3, dim=-1))  # (N, groups, c)
        outs, first = [], 0
        for count in layout.counts.tolist():
            if count:
                rows = slice(first, first + count)
                mixing = torch.softmax(self._logits(k[rows], v[rows], count), dim=-1).to(q.dtype)  # (groups, c, c)
                outs.append(torch.einsum("ngv,gkv->ngk", q[rows], mixing))
            first += count
        out: Tensor = self.proj(join(torch.cat(outs)))
        return out

    def _logits(self, k: Tensor, v: Tensor, count: int) -> Tensor:
        """k^T v of one bag, scaled, (groups, c, c); in single precision at least, summed slice by slice."""
        with torch.autocast(k.device.type, enabled=False):
            wide = torch.float64 if k.dtype == torch.float64 else torch.float32
            total = torch.zeros(k.shape[1], k.shape[2], v.shape[2], dtype=wide, device=k.device)
            for ks, vs in zip(k.split(_ROWS_AT_ONCE), v.split(_ROWS_AT_ONCE), strict=True):
                total = total + torch.einsum("ngk,ngv->gkv", ks.to(wide), vs.to(wide))
        if self.options.scale == "tokens":
            return total / math.sqrt(count)
        total = total / math.sqrt(k.shape[2])
        return total * (self.options.reference / count) if self.options.scale == "mean" else total


class _Half(nn.Module):
    """One half of the block around an attention."""

    def __init__(self, width: Width, attention: nn.Module) -> None:
        super().__init__()
        dim = width.dim
        self.around1, self.around2 = SparseDepthwise(dim, 3), SparseDepthwise(dim, 3)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = attention
        self.mlp = FeedForward(dim, width.hidden, width.dropout)
        self.dropout = nn.Dropout(width.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        if layout.placed:
            x = x + self.around1(x, layout)
        attended: Tensor = self.dropout(self.attention(self.norm1(x), layout))
        x = x + attended
        if layout.placed:
            x = x + self.around2(x, layout)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class DaViT(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "davit"
    Options = DaViTOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="windows of tiles, then channels that attend to each other over the bag",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no window; nothing in the convolutions",
        paper="Ding et al., ECCV 2022, arXiv 2204.03645",
        licence="MIT",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: DaViTOptions | None = None) -> None:
        super().__init__(width, options)
        self.spatial = _Half(width, WindowAttention(width, self.options))
        self.channel = _Half(width, ChannelAttention(width, self.options))

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        out: Tensor = self.channel(self.spatial(x, layout), layout)
        return out
