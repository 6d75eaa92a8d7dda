"""Agent attention (Han et al., ECCV 2024, arXiv 2312.08874): two softmax attentions through a few agents.

    A = means of q over p x p bins of the tissue's box, n = p^2 agents
    V_A = softmax_M(s A k^T + B_1) v            (n, d) per head, s = d^-1/2
    O   = softmax_n(s q A^T + B_2) V_A          (M, d)
    out = (O + DWC(v)) W_o + b_o

DWC is a depthwise convolution of the values over the 3 x 3 tiles around each. B_1 and B_2 are learned: for each agent a
table over the slide, one over its rows and one over its columns. On a grid as large as the tables this is the published
module. A slide has any size and holes, so that every table is read at a tile's relative place in the box, bins without a
tile have no agent, and a hole adds nothing to the convolution. Without coordinates the agents are means of n stretches of
the list, and neither biases nor the convolution are there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import join, split
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout
from comel.nn.layout.tables import bin_members, linear_weights
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["AgentAttention", "AgentOptions"]

_ROWS_AT_ONCE = 8_192


class AgentOptions(MixerOptions):
    """Settings of the mixer."""

    bins: int = Field(7, ge=1, le=64, description="bins along a side of the box, p; there are p^2 agents")
    table: int = Field(7, ge=1, le=64, description="side of the tables over the slide")
    line_table: int = Field(14, ge=1, le=256, description="length of the tables over rows and over columns")
    qkv_bias: bool = Field(True, description="biases in q, k and v")


class AgentAttention(Mixer):
    """See the module."""

    name: ClassVar[str] = "agent"
    Options = AgentOptions
    card: ClassVar[Card] = Card(
        title="through a few agents, with learned biases by place",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no agent; bins without a tile have no agent",
        paper="Han et al., ECCV 2024, arXiv 2312.08874",
        licence="none stated",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: AgentOptions | None = None) -> None:
        super().__init__(width, options)
        dim, heads, bias = width.dim, width.heads, self.options.qkv_bias
        agents, side, line = self.options.bins**2, self.options.table, self.options.line_table
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=bias)
        self.v = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.around = SparseDepthwise(dim, 3)
        self.gather_table, self.spread_table = (_table(heads, agents, side * side) for _ in range(2))
        self.gather_rows, self.spread_rows = (_table(heads, agents, line) for _ in range(2))
        self.gather_columns, self.spread_columns = (_table(heads, agents, line) for _ in range(2))
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        q, k, v = self.q(x), self.k(x), self.v(x)  # (N, dim)
        outs, first = [], 0
        for bag, count in enumerate(layout.counts.tolist()):
            if count:
                outs.append(self._attend(q, k, v, slice(first, first + count), layout, bag))
            first += count
        out = torch.cat(outs)
        if layout.placed:
            out = out + self.around(v, layout)
        mixed: Tensor = self.dropout(self.proj(out))
        return mixed

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, rows: slice, layout: Layout, bag: int) -> Tensor:
        """One bag: (M, dim) before the projection."""
        heads = self.width.heads
        members = self._members(layout, rows, bag)  # (M, n)
        there = members.any(dim=0)
        members = members[:, there].to(q.dtype)
        agents = split(members.T @ q[rows] / members.sum(dim=0).unsqueeze(1), heads).transpose(0, 1)[None]  # (1, heads, n, d)
        ks, vs, qs = (split(part[rows], heads).transpose(0, 1)[None] for part in (k, v, q))  # (1, heads, M, d)
        if not layout.placed:
            gathered = F.scaled_dot_product_attention(agents, ks, vs)
            return join(F.scaled_dot_product_attention(qs, agents, gathered)[0].transpose(0, 1))
        places = layout.relative()[rows].to(q.dtype)  # (M, 2)
        gathered = self._gathered(agents, ks, vs, places, there)
        outs = []
        for part, place in zip(qs.split(_ROWS_AT_ONCE, dim=2), places.split(_ROWS_AT_ONCE), strict=True):
            bias = self._bias(place, there, self.spread_table, self.spread_rows, self.spread_columns)  # (heads, n, m)
            outs.append(F.scaled_dot_product_attention(part, agents, gathered, attn_mask=bias.mT[None]))
        return join(torch.cat(outs, dim=2)[0].transpose(0, 1))

    def _gathered(self, agents: Tensor, k: Tensor, v: Tensor, places: Tensor, there: Tensor) -> Tensor:
        """softmax(s A k^T + B_1) v, (1, heads, n, d), over slices of the instances, joined by their log-sum-exp."""
        total, weight = torch.zeros_like(agents), None
        scale = agents.shape[-1] ** -0.5
        for ks, vs, place in zip(
            k.split(_ROWS_AT_ONCE, dim=2), v.split(_ROWS_AT_ONCE, dim=2), places.split(_ROWS_AT_ONCE), strict=True
        ):
            bias = self._bias(place, there, self.gather_table, self.gather_rows, self.gather_columns)
            logits = (agents * scale) @ ks.mT + bias  # (1, heads, n, m)
            new = torch.logsumexp(logits, dim=-1, keepdim=True)
            part = torch.softmax(logits, dim=-1) @ vs
            both = new if weight is None else torch.logaddexp(weight, new)
            total = part if weight is None else total * torch.exp(weight - both) + part * torch.exp(new - both)
            weight = both
        return total

    def _bias(self, places: Tensor, there: Tensor, table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Biases of the agents that there are at some places (m, 2): (heads, n, m)."""
        side, line = self.options.table, self.options.line_table
        across, down = linear_weights(places[:, 0], side), linear_weights(places[:, 1], side)  # (m, side)
        both = (down.unsqueeze(2) * across.unsqueeze(1)).flatten(1)  # (m, side^2)
        bias = table[:, there] @ both.T
        bias = bias + rows[:, there] @ linear_weights(places[:, 1], line).T
        return bias + columns[:, there] @ linear_weights(places[:, 0], line).T

    def _members(self, layout: Layout, rows: slice, bag: int) -> Tensor:
        """Which agents each instance of a bag is in, (M, n) bool; some agents may have none."""
        bins = self.options.bins
        if not layout.placed:
            count = rows.stop - rows.start
            return bin_members(torch.arange(count, device=layout.bag.device), count, min(bins * bins, count))
        width, height = layout.box[bag].tolist()
        cells = layout.cells[rows]
        column, row = bin_members(cells[:, 0], width, bins), bin_members(cells[:, 1], height, bins)
        return (row.unsqueeze(2) & column.unsqueeze(1)).flatten(1)


def _table(heads: int, agents: int, length: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(heads, agents, length).normal_(std=0.02).clamp_(-0.04, 0.04))
