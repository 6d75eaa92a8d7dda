"""CrossFormer's short and long distance attention (Wang et al., ICLR 2022, arXiv 2108.00154).

    x <- x + SDA(LN x);  x <- x + MLP(LN x);    x <- x + LDA(LN x);  x <- x + MLP(LN x)

SDA: softmax attention within squares of G x G tiles. LDA: within groups of up to G x G tiles that lie I apart, from one
square of G I x G I cells; with I = ceil(longer side of the slide / G), the default, this square is the whole slide, as in
the paper, and a number fixes it, as in the published code. Both add a bias that a small network makes of the difference of
two places in the group (:mod:`comel.nn.positions.dynamic_bias`).

Groups hold the tiles that there are, where the published code masks its padding. Without coordinates SDA has stretches of
G^2 tiles of the list, LDA those with the same place modulo ceil(M / G^2), and there is no bias.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.layout import Layout, PerBag
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.positions.dynamic_bias import DynamicBias
from comel.nn.sublayer import Sublayer

__all__ = ["CrossFormer", "CrossFormerOptions", "GroupAttention"]


class CrossFormerOptions(MixerOptions):
    """Settings of the mixer."""

    group: int = Field(7, ge=1, le=32, description="side G of a group, in tiles")
    interval: int = Field(0, ge=0, le=4096, description="distance in a long group, in tiles; 0: so that it spans the slide")
    bias_hidden: int = Field(0, ge=0, le=4096, description="width of the network of the bias; 0: a quarter of dim, 8 at least")
    qkv_bias: bool = Field(True, description="biases in q, k and v")


class GroupAttention(nn.Module):
    """SDA, or LDA if ``long``; see the module."""

    def __init__(self, width: Width, options: CrossFormerOptions, long: bool) -> None:
        super().__init__()
        self.heads, self.options, self.long = width.heads, options, long
        self.qkv = nn.Linear(width.dim, 3 * width.dim, bias=options.qkv_bias)
        self.positions = DynamicBias(width.heads, options.bias_hidden or max(8, width.dim // 4))
        self.proj = nn.Linear(width.dim, width.dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        side = self.options.group
        if not layout.placed:
            steps = _per_bag([max(1, -(-count // side**2)) for count in layout.counts.tolist()])
            segments = layout.strided_runs(steps) if self.long else layout.runs(side**2)
            listed: Tensor = self.proj(join(attend_segments(q, k, v, segments)))
            return listed
        interval = self._interval(layout) if self.long else 1
        place = layout.place_in_dilated(side, interval)  # (N, 2), rows first
        table = self.positions.table(side)  # ((2 side - 1)^2, heads)

        def bias(queries: Tensor, keys: Tensor) -> Tensor:
            apart = place[queries].unsqueeze(2) - place[keys].unsqueeze(1) + side - 1  # (g, n, m, 2)
            return table[apart[..., 0] * (2 * side - 1) + apart[..., 1]].permute(0, 3, 1, 2)

        out: Tensor = self.proj(join(attend_segments(q, k, v, layout.dilated(side, interval), bias=bias)))
        return out

    def _interval(self, layout: Layout) -> PerBag:
        if self.options.interval:
            return self.options.interval
        return _per_bag([max(1, -(-longer // self.options.group)) for longer in layout.box.amax(dim=1).tolist()])


class CrossFormer(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "crossformer"
    Options = CrossFormerOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="squares of tiles, then tiles at a fixed distance over the slide",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no group",
        paper="Wang et al., ICLR 2022, arXiv 2108.00154",
        licence="MIT",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: CrossFormerOptions | None = None) -> None:
        super().__init__(width, options)
        self.short = Sublayer(width, GroupAttention(width, self.options, long=False))
        self.long = Sublayer(width, GroupAttention(width, self.options, long=True))

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        out: Tensor = self.long(self.short(x, layout), layout)
        return out


def _per_bag(numbers: list[int]) -> PerBag:
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)
