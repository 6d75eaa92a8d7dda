"""S2AFormer's strip attention between local convolutions (Xu et al. 2025, arXiv 2505.22195).

    x <- x + DW(x);   x <- x + SSA(LN x);   x <- x + W gelu(DW'(LN x));   x <- x + MLP(LN x)

SSA: X' = b + sum over the tiles of a window of r x r of w[place] * x, channel by channel, one row for each window with
tissue; q = x W_q and k = X' W_k are one number per head; v = X' W_v; O = softmax_windows(q k) v.

A query being one number, O is a function of one real number per head, the windows' values tilted by e^(q k). Above ``exact``
windows it is tabulated at ``points`` values of q from the bag's least to its largest and read by cubic interpolation, so
that the cost is linear; below, it is computed for every tile. No code is public: this is rebuilt from descriptions of the
paper, and the local module, whether windows overlap (they do not here) and that no norm follows them are choices made here.
A hole adds nothing to a window. Without coordinates windows are stretches of r^2 tiles of the list, and the convolutions are
left out.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_to, join, split
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.sublayer import FeedForward

__all__ = ["S2AFormer", "S2AFormerOptions", "StripAttention", "tilted_mean"]


class S2AFormerOptions(MixerOptions):
    """Settings of the mixer."""

    window: int = Field(4, ge=1, le=64, description="side r of a window, in tiles")
    exact: int = Field(1024, ge=1, le=65536, description="windows up to which every tile's attention is computed")
    points: int = Field(256, ge=2, le=4096, description="values of q that are tabulated beyond")


def tilted_mean(q: Tensor, k: Tensor, v: Tensor, points: int) -> Tensor:
    """``sum_j e^(q k_j) v_j / sum_j e^(q k_j)`` for each head, by interpolation between ``points`` values of q.

    Cubic, with the slope that the curve has at each point, E[k v] - E[k] E[v] under the weights there.

    Args:
        q: (M, heads).
        k: (W, heads).
        v: (W, heads, d).
        points: at which it is computed, from the least q of each head to the largest.

    Returns:
        (M, heads, d).
    """
    low, high = q.detach().amin(dim=0), q.detach().amax(dim=0)  # (heads,)
    step = ((high - low) / (points - 1)).clamp_min(torch.finfo(q.dtype).tiny)
    at = low + step * torch.arange(points, device=q.device, dtype=q.dtype).unsqueeze(1)  # (points, heads)
    weights = torch.softmax(at.T.unsqueeze(2) * k.T.unsqueeze(1), dim=-1)  # (heads, points, W)
    keys, values = k.T.unsqueeze(-1), v.transpose(0, 1)  # (heads, W, 1), (heads, W, d)
    curve = weights @ values  # (heads, points, d)
    slope = (weights @ (keys * values) - (weights @ keys) * curve) * step.view(-1, 1, 1)  # per step
    place = ((q - low) / step).clamp(0, points - 1)  # (M, heads)
    first = place.detach().floor().long().clamp_max(points - 2)
    share = (place - first).unsqueeze(-1)  # (M, heads, 1)
    head = torch.arange(q.shape[1], device=q.device)
    before, after = curve[head, first], curve[head, first + 1]
    left, right = slope[head, first], slope[head, first + 1]
    rest = 1 - share
    blend = rest**2 * (1 + 2 * share) * before + share**2 * (3 - 2 * share) * after
    return blend + share * rest * (rest * left - share * right)


class StripAttention(nn.Module):
    """SSA, see the module."""

    def __init__(self, width: Width, options: S2AFormerOptions) -> None:
        super().__init__()
        dim, heads, side = width.dim, width.heads, options.window
        self.heads, self.options = heads, options
        self.weight = nn.Parameter(torch.empty(side**2, dim).uniform_(-1 / side, 1 / side))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.q, self.k = nn.Linear(dim, heads), nn.Linear(dim, heads)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        side = self.options.window
        windows = layout.regions(side)
        place = layout.place_in_square(side) if layout.placed else layout.place_in_list % side**2
        seen = windows.sum(x * self.weight[place]) + self.bias  # (windows, dim)
        q, k, v = self.q(x), self.k(seen), split(self.v(seen), self.heads)
        bags = Segments(windows.bag, windows.bag)
        outs: list[Tensor] = []
        first = 0
        for count in layout.counts.tolist():
            if not count:
                continue
            rows = slice(first, first + count)
            own = bags.order[bags.starts[len(outs)] :][: bags.sizes[len(outs)]]  # windows of the bag, which has some
            if len(own) > self.options.exact:
                outs.append(tilted_mean(q[rows], k[own], v[own], self.options.points))
            else:
                outs.append(self._exact(q[rows], k[own], v[own]))
            first += count
        out: Tensor = self.proj(join(torch.cat(outs)))
        return out

    def _exact(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same for every query, (M, heads, d); queries and keys widened with zeros, as attention kernels want them."""
        width = v.shape[-1] - 1
        alone, keys = (torch.zeros(len(part), dtype=torch.int64, device=q.device) for part in (q, k))
        wide_q, wide_k = (F.pad(part.unsqueeze(-1), (0, width)) for part in (q, k))
        return attend_to(wide_q, wide_k, v, Segments(alone, alone), Segments(keys, keys), scale=1.0)


class S2AFormer(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "s2aformer"
    Options = S2AFormerOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="one-number queries to windows, between convolutions",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="nothing in windows and convolutions; windows without a tile do not exist",
        paper="Xu et al., 2025, arXiv 2505.22195",
        licence="no code is public",
        numbers="equations",
    )

    def __init__(self, width: Width, options: S2AFormerOptions | None = None) -> None:
        super().__init__(width, options)
        dim = width.dim
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.around, self.local_around = SparseDepthwise(dim, 3), SparseDepthwise(dim, 3)
        self.strips, self.local = StripAttention(width, self.options), nn.Linear(dim, dim)
        self.mlp = FeedForward(dim, width.hidden, width.dropout)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        if layout.placed:
            x = x + self.around(x, layout)
        x = x + self.dropout(self.strips(self.norm1(x), layout))
        if layout.placed:
            x = x + self.dropout(self.local(F.gelu(self.local_around(self.norm2(x), layout))))
        out: Tensor = x + self.mlp(self.norm3(x))
        return out
