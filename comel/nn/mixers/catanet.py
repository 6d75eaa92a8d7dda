"""Content-aware token aggregation (Liu, Liu, Tang, Wu, "CATANet", CVPR 2025, arXiv 2503.06896).

Instances are sorted by the nearest of K centres, and attend to those that are like them, near or far; then each attends to
its surroundings. With n = LN(x):

    centre_i = argmax_j cos(n_i, m_j);   the list is sorted by bag, centre and place, and cut into runs of g
    a        = softmax(q k^T / sqrt d) v over a run and the next + softmax(q K^T / sqrt d) V,  K, V = m W_K, m W_V
    x        = x + (a W_proj) W_out;    x = x + FFN(LN x)
    x        = x + mean over the squares that hold it of softmax(q k^T / sqrt d) v W_proj';     x = x + FFN'(LN x)
    FFN(y)   = W_2 (t + gelu(DW_5(t))) + b_2,    t = gelu(W_1 y + b_1)

The last but one is attention within squares of tiles that overlap; published, a tile in three squares of a line has the sum
divided by four. DW_5 is a depthwise convolution over 5 x 5 tiles.

The centres m (K, dim) are a buffer. In training, they move to the unit mean of the unit vectors of the instances nearest to
them, a few rounds over the whole batch; the last round passes a gradient, these centres take the place of m, and the buffer
follows them slowly. In evaluation the buffer is used as it is, and bags are independent. It moves only if the norm's weight
learns: a frozen network's centres stay, adapters or not. It holds random directions until the first step of training, which
starts from the means of K stretches of the list, as published.

On a bag: inside a centre, instances are sorted by row and column of the slide, or without coordinates by the list. The last
run attends to itself and the one before; ``pad`` "published" mirrors the list's end in its place, for which the published code
needs bags up to g or from 1.5 g on (here the mirrored list starts again). Holes add nothing to a convolution. Without
coordinates squares are stretches of the list, and the convolutions are left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from comel.nn.layout.attention import attend_between, attend_segments, join, split
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout
from comel.nn.layout.patches import overlapping_squares
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["TokenAggregation", "TokenAggregationOptions"]

_ROWS_AT_ONCE = 16_384
_CHANNELS_AT_ONCE = 128


class TokenAggregationOptions(MixerOptions):
    """Settings of the mixer."""

    centres: int = Field(64, ge=1, le=4096, description="centres that instances are sorted by")
    run: int = Field(128, ge=1, le=4096, description="instances of a run of the sorted list")
    qk_dim: int = Field(0, ge=0, le=4096, description="width of queries and keys, a multiple of the heads; 0: the instances'")
    rounds: int = Field(5, ge=1, le=100, description="rounds in which the centres move at a step of training")
    momentum: float = Field(0.999, ge=0, le=1, description="share of the old centres that is kept at a step of training")
    side: int = Field(16, ge=0, le=64, description="side of the squares of local attention, in tiles; 0: none")
    overlap: int = Field(2, ge=0, le=63, description="tiles that a square shares with the next")
    pad: Literal["masked", "published"] = Field(
        "masked", description="what the last run sees: the one before, or mirrored rows"
    )

    @model_validator(mode="after")
    def _squares_move_on(self) -> TokenAggregationOptions:
        if self.side and self.overlap >= self.side:
            raise ValueError(f"squares of side {self.side} cannot overlap by {self.overlap}; take less than {self.side}")
        return self


class TokenAggregation(Mixer):
    """See the module.

    Raises:
        ValueError: ``qk_dim`` is not a multiple of the heads.
    """

    name: ClassVar[str] = "catanet"
    Options = TokenAggregationOptions
    card: ClassVar[Card] = Card(
        title="attention among instances of like content, then within squares",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no run and no square's attention; add nothing to convolutions",
        paper="Liu et al., CVPR 2025, arXiv 2503.06896",
        licence="Apache-2.0",
        numbers="authors' code",
    )
    whole: ClassVar[bool] = True

    def __init__(self, width: Width, options: TokenAggregationOptions | None = None) -> None:
        super().__init__(width, options)
        wide = self.options.qk_dim or width.dim
        if wide % width.heads:
            raise ValueError(f"qk_dim {wide} is not a multiple of {width.heads} heads")
        self.aggregation = _Aggregation(width, wide, self.options)
        self.feedforward = _FeedForward(width)
        if self.options.side:
            self.local = _Local(width, wide)
            self.local_feedforward = _FeedForward(width)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        x = self.feedforward(self.aggregation(x, layout), layout)
        if not self.options.side:
            return x
        if layout.placed:
            rows, squares = overlapping_squares(layout, self.options.side, self.options.overlap)
        else:
            rows, squares = torch.arange(len(x), device=x.device), layout.runs(self.options.side**2)
        out: Tensor = self.local_feedforward(self.local(x, rows, squares), layout)
        return out


class _Aggregation(nn.Module):
    """Attention within runs of the list sorted by centre, and to the centres: x (N, dim) -> (N, dim), x added."""

    means: Tensor
    started: Tensor

    def __init__(self, width: Width, wide: int, options: TokenAggregationOptions) -> None:
        super().__init__()
        dim, self.heads, self.options = width.dim, width.heads, options
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, wide, bias=False)
        self.k = nn.Linear(dim, wide, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.centre_k = nn.Linear(dim, wide, bias=False)
        self.centre_v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(width.dropout)
        self.register_buffer("means", F.normalize(torch.randn(options.centres, dim), dim=-1))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        n = self.norm(x)
        order = layout.along(0) if layout.placed else torch.arange(len(x), device=x.device)
        centres = self._centres(n, order)  # (K, dim)
        key = layout.bag * len(centres) + _nearest(n.detach(), centres.detach())
        order = order[torch.argsort(key[order], stable=True)]
        n = n[order]  # sorted by bag, centre and place
        q, k, v = (split(linear(n), self.heads) for linear in (self.q, self.k, self.v))  # (N, heads, d)
        centres = centres.to(n.dtype)
        to, of = (split(linear(centres), self.heads) for linear in (self.centre_k, self.centre_v))  # (K, heads, d)
        attended = self._mirrored(q, k, v, layout) if self.options.pad == "published" else self._masked(q, k, v, layout)
        attended = join(attended + _sdpa(q[None], to[None], of[None])[0])
        change = self.dropout(self.out(self.proj(attended)))
        return x + torch.empty_like(change).index_copy(0, order, change)

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Each run and the next one of the same bag; the last and the one before."""
        length = self.options.run
        runs = layout.runs(length)  # of the sorted list, whose bags lie as the packed rows' do
        number = torch.arange(len(runs), device=q.device)
        bag = F.pad(runs.bag, (1, 1), value=-1)
        after, before = bag[2:] == runs.bag, bag[:-2] == runs.bag
        other = torch.where(after, number + 1, torch.where(before, number - 1, -1))
        return attend_between(q, k, v, runs, torch.stack([number, other], dim=1))

    def _mirrored(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Each run and as many rows after it, the end of a bag's list being followed by its mirror image."""
        outs, start = [], 0
        for count in layout.counts.tolist():
            length = min(count, self.options.run)
            at_once = max(1, _ROWS_AT_ONCE // max(1, length))
            runs = torch.arange(-(-count // length) if count else 0, device=q.device)
            for part in runs.split(at_once):
                places = part.unsqueeze(1) * length + torch.arange(2 * length, device=q.device)  # (runs, 2 length)
                rows = start + torch.where(places < count, places, (2 * count - 1 - places) % max(1, count))
                out = _sdpa(q[rows[:, :length]], k[rows], v[rows])  # (runs, length, heads, d)
                outs.append(out[places[:, :length] < count])
            start += count
        return torch.cat(outs)

    def _centres(self, n: Tensor, order: Tensor) -> Tensor:
        """The centres of this pass, (K, dim), in single precision at least; in training the buffer follows them."""
        if not (self.training and self.norm.weight.requires_grad):
            return self.means
        with torch.autocast(n.device.type, enabled=False):
            n = n if n.dtype == torch.float64 else n.float()
            with torch.no_grad():
                centres = self.means.to(n.dtype) if self.started else _stretches(n[order], len(self.means))
                for _ in range(self.options.rounds - 1):
                    centres = _moved(n, centres)
            centres = _moved(n, centres)
            with torch.no_grad():
                kept = self.options.momentum if self.started else 0.0
                self.means.mul_(kept).add_(centres.detach(), alpha=1 - kept)
                self.started.fill_(True)
        return centres


class _Local(nn.Module):
    """Attention within squares, x added; an instance in several gets the mean."""

    def __init__(self, width: Width, wide: int) -> None:
        super().__init__()
        dim, self.heads = width.dim, width.heads
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, wide, bias=False)
        self.k = nn.Linear(dim, wide, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(width.dropout)

    def forward(self, x: Tensor, rows: Tensor, squares: Segments) -> Tensor:
        """x (N, dim); ``squares`` are segments of ``rows`` (P,), which hold every instance at least once."""
        n = self.norm(x)
        q, k, v = (split(linear(n)[rows], self.heads) for linear in (self.q, self.k, self.v))  # (P, heads, d)
        mean = Segments(rows, squares.bag[squares.of]).mean(join(attend_segments(q, k, v, squares)))  # (N, dim)
        out: Tensor = x + self.dropout(self.proj(mean))
        return out


class _FeedForward(nn.Module):
    """Feed-forward part with a convolution of its hidden layer, x added."""

    def __init__(self, width: Width) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width.dim)
        self.fc1 = nn.Linear(width.dim, width.hidden)
        self.around = SparseDepthwise(width.hidden, 5)
        self.fc2 = nn.Linear(width.hidden, width.dim)
        self.dropout = nn.Dropout(width.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        hidden = F.gelu(self.fc1(self.norm(x)))  # (N, hidden)
        if layout.placed:
            if torch.is_grad_enabled():
                hidden = hidden + F.gelu(self.around(hidden, layout))
            else:
                for first in range(0, hidden.shape[1], _CHANNELS_AT_ONCE):
                    some = slice(first, first + _CHANNELS_AT_ONCE)
                    hidden[:, some] += F.gelu(self.around(hidden[:, some], layout, some))
        out: Tensor = x + self.dropout(self.fc2(self.dropout(hidden)))
        return out


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(g, n, heads, d), (g, m, heads, d), (g, m, heads, e) -> (g, n, heads, e)."""
    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def _nearest(n: Tensor, centres: Tensor) -> Tensor:
    """The centre with the largest cosine to each instance, the first of equal ones: (N, dim) -> (N,)."""
    with torch.autocast(n.device.type, enabled=False):
        n = n if n.dtype == torch.float64 else n.float()
        unit = F.normalize(centres.to(n.dtype), dim=-1)
        return torch.cat([(rows @ unit.T).argmax(dim=1) for rows in n.split(_ROWS_AT_ONCE)])


def _moved(n: Tensor, centres: Tensor) -> Tensor:
    """One round: the unit mean of the unit instances nearest to each centre; one without keeps its direction."""
    unit, centres = F.normalize(n, dim=-1), F.normalize(centres, dim=-1)
    nearest = _nearest(unit.detach(), centres)
    total = torch.zeros_like(centres).index_add(0, nearest, unit)
    used = torch.bincount(nearest, minlength=len(centres)) > 0
    return torch.where(used.unsqueeze(1), F.normalize(total, dim=-1), centres)


def _stretches(n: Tensor, count: int) -> Tensor:
    """Means of ``count`` equal stretches of a list that is followed by its mirror image until they are full: (count, dim)."""
    rows = len(n) + count - len(n) % count
    places = torch.arange(rows, device=n.device)
    mirrored = torch.where(places < len(n), places, (2 * len(n) - 1 - places) % len(n))
    stretch = Segments(places // (rows // count), torch.zeros_like(places))
    return stretch.mean(n[mirrored])
