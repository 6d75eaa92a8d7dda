"""HiLo attention (Pan, Cai, Zhuang, "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, arXiv 2205.13213).

The heads are of two kinds. Those of Hi-Fi attend within a window of w x w tiles; those of Lo-Fi attend from every tile to
the mean of every window with tissue:

    Hi:  softmax(q k^T / sqrt d) v  within each window;        out_hi = W_h [heads] + b_h
    Lo:  q from every tile, k and v from the window means;     out_lo = W_l [heads] + b_l
    out = [out_hi, out_lo]

Each kind reads all channels and writes its own share of them; the block's feed-forward part mixes the two. Windows hold the
tiles that there are, 1 to w^2, and a mean runs over these; the published code fills holes with zeros. Without coordinates a
window is a stretch of w^2 tiles of the list.

Lo-Fi costs M times the number of windows. With ``window_low`` = 0 its windows grow with the bag, so that no bag has more
than about ``most_means`` of them if tissue fills its windows, and the cost is linear; a number fixes their side, as
published.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments, attend_to, join, split
from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["HiLo", "HiLoOptions"]


class HiLoOptions(MixerOptions):
    """Settings of the mixer."""

    window: int = Field(7, ge=1, le=64, description="side of a Hi-Fi window, in tiles")
    window_low: int = Field(0, ge=0, le=256, description="side of a Lo-Fi window, in tiles; 0: as the bag asks")
    most_means: int = Field(1024, ge=1, le=65536, description="Lo-Fi windows a bag has at most, about")
    low_share: float = Field(0.5, ge=0, le=1, description="share of the heads that are Lo-Fi; rounded down (the paper's alpha)")
    qkv_bias: bool = Field(True, description="biases in q, k and v")


class HiLo(Mixer):
    """See the module.

    Raises:
        ValueError: no head is left for one of the kinds although ``low_share`` asks for both.
    """

    name: ClassVar[str] = "hilo"
    Options = HiLoOptions
    card: ClassVar[Card] = Card(
        title="some heads within windows, the others to the windows' means",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no window's attention and no mean; windows without a tile do not exist",
        paper="Pan et al., NeurIPS 2022, arXiv 2205.13213",
        licence="Apache-2.0",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: HiLoOptions | None = None) -> None:
        super().__init__(width, options)
        dim, heads, bias = width.dim, width.heads, self.options.qkv_bias
        share = self.options.low_share
        self.low_heads = heads if self.options.window == 1 else int(heads * share)
        self.high_heads = heads - self.low_heads
        if 0 < share < 1 and self.options.window > 1 and not (self.low_heads and self.high_heads):
            raise ValueError(f"low_share {share} of {heads} heads leaves one kind without a head; give more heads, or 0 or 1")
        d = dim // heads
        high, low = self.high_heads * d, self.low_heads * d
        if high:
            self.h_qkv = nn.Linear(dim, 3 * high, bias=bias)
            self.h_proj = nn.Linear(high, high)
        if low:
            self.l_q = nn.Linear(dim, low, bias=bias)
            self.l_kv = nn.Linear(dim, 2 * low, bias=bias)
            self.l_proj = nn.Linear(low, low)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        parts = []
        if self.high_heads:
            parts.append(self.h_proj(join(self._high(x, layout.regions(self.options.window)))))
        if self.low_heads:
            parts.append(self.l_proj(join(self._low(x, layout))))
        mixed: Tensor = self.dropout(torch.cat(parts, dim=-1))
        return mixed

    def _high(self, x: Tensor, windows: Segments) -> Tensor:
        q, k, v = (split(part, self.high_heads) for part in self.h_qkv(x).chunk(3, dim=-1))  # (N, heads, d)
        return attend_segments(q, k, v, windows)

    def _low(self, x: Tensor, layout: Layout) -> Tensor:
        options = self.options
        fixed = 1 if options.window == 1 else options.window_low
        windows = layout.regions(fixed or layout.sides(options.window, options.most_means))
        q = split(self.l_q(x), self.low_heads)  # (N, heads, d)
        k, v = (split(part, self.low_heads) for part in self.l_kv(windows.mean(x)).chunk(2, dim=-1))  # (windows, heads, d)
        return attend_to(q, k, v, layout.within, Segments(windows.bag, windows.bag))
