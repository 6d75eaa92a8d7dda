"""Attention within a region, then across regions between tiles of one place (Group Pose: Liu et al., ICCV 2023, arXiv
2308.07313).

    x <- LN(x + A_w(x))      among the tiles of a region, and its region token
    x <- LN(x + A_a(x))      among the tiles that have the same place in their regions; the region tokens among themselves
    x <- LN(x + W_2 relu(W_1 x))

A region is a square of r x r tiles. Two tiles of different regions and places never meet directly, but in two layers all do,
surely by way of the region tokens, which all start from one learned vector. Norms come after the residuals, as published.
The place in the region enters as P = MLP(sines and cosines of row and column), added to the stream of the tiles ("stream",
as the published code does) or to queries and keys alone ("qk", as the paper writes). The published layer's cross-attention
to a picture has no counterpart.

With r fixed the second attention costs M^2 / r^2; with ``side`` = 0, the default, r grows as the fourth root of the bag,
which makes it M^1.5. Without coordinates regions are stretches of r^2 tiles of the list.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.layout import Layout, PerBag
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.positions.waves import waves

__all__ = ["GroupPose", "GroupPoseOptions"]

_WAVES = 8


class GroupPoseOptions(MixerOptions):
    """Settings of the mixer."""

    side: int = Field(0, ge=0, le=256, description="side of a region, in tiles; 0: the fourth root of the bag")
    region_token: bool = Field(True, description="a token for each region, which sees its tiles and the other regions' tokens")
    position: Literal["stream", "qk", "none"] = Field("stream", description="where the place in the region enters")


class _Attention(nn.Module):
    """Multi-head attention within segments, with biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, segments: Segments, place: Tensor | None = None) -> Tensor:
        seen = x if place is None else x + place
        q, k, v = split(self.q(seen), self.heads), split(self.k(seen), self.heads), split(self.v(x), self.heads)
        out: Tensor = self.proj(join(attend_segments(q, k, v, segments)))
        return out


class GroupPose(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "group-pose"
    Options = GroupPoseOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="within regions, then across regions between tiles of one place",
        sees="grid",
        reach="global",
        exponent=1.5,
        coords="used",
        holes="in no group; regions without a tile have no token",
        paper="Liu et al., ICCV 2023, arXiv 2308.07313",
        licence="Apache-2.0",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: GroupPoseOptions | None = None) -> None:
        super().__init__(width, options)
        dim = width.dim
        self.within, self.across = _Attention(dim, width.heads), _Attention(dim, width.heads)
        self.norm_within, self.norm_across, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, width.hidden), nn.Linear(width.hidden, dim)
        if self.options.region_token:
            self.token = nn.Parameter(torch.randn(dim) * 0.02)
        if self.options.position != "none":
            self.place1, self.place2 = nn.Linear(4 * _WAVES, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        side = self._side(layout)
        regions = layout.regions(side)
        count = regions.number if self.options.region_token else 0
        rows = torch.cat([x, self.token.expand(count, -1)]) if count else x
        place = torch.cat([self._places(layout, side, x), x.new_zeros(count, x.shape[1])]) if self._has_places else None
        return self.layer(rows, place, self._within(regions, count), self._across(layout, side, regions, count))[: len(x)]

    def layer(self, rows: Tensor, place: Tensor | None, within: Segments, across: Segments) -> Tensor:
        """One layer on tiles and region tokens.

        Args:
            rows: (R, dim).
            place: P of each row (R, dim), or None.
            within: the regions of the rows.
            across: rows of one place in different regions.

        Returns:
            (R, dim).
        """
        if place is not None and self.options.position == "stream":
            rows, place = rows + place, None
        rows = self.norm_within(rows + self.dropout(self.within(rows, within, place)))
        rows = self.norm_across(rows + self.dropout(self.across(rows, across)))
        out: Tensor = self.norm(rows + self.feed_forward(rows))
        return out

    def feed_forward(self, rows: Tensor) -> Tensor:
        """``W_2 relu(W_1 x)``, (R, dim) -> (R, dim)."""
        out: Tensor = self.dropout(self.fc2(F.relu(self.fc1(rows))))
        return out

    @property
    def _has_places(self) -> bool:
        return hasattr(self, "place1")

    def _side(self, layout: Layout) -> PerBag:
        sides = [self.options.side or max(1, math.ceil(count**0.25)) for count in layout.counts.tolist()]
        return sides[0] if len(set(sides)) == 1 else tuple(sides)

    def _within(self, regions: Segments, tokens: int) -> Segments:
        if not tokens:
            return regions
        return Segments(torch.cat([regions.of, torch.arange(tokens, device=regions.of.device)]), _bags(regions, tokens))

    def _across(self, layout: Layout, side: PerBag, regions: Segments, tokens: int) -> Segments:
        if layout.placed:
            types = layout.strided(side)
        else:
            types = layout.strided_runs(side**2 if isinstance(side, int) else tuple(s * s for s in side))
        if not tokens:
            return types
        return Segments(torch.cat([types.of, types.number + regions.bag]), _bags(regions, tokens))

    def _places(self, layout: Layout, side: PerBag, like: Tensor) -> Tensor:
        """P of each tile, (N, dim): of its row and column in the region; of its place in the stretch without coordinates."""
        if layout.placed:
            at = layout.cells % layout.per_row(side)
        else:
            steps = layout.per_row(side).squeeze(1)
            inside = layout.place_in_list % steps**2
            at = torch.stack([inside % steps, inside // steps], dim=1)
        code = waves(at, torch.pi * 0.5 ** torch.arange(_WAVES), like.dtype)  # (N, 4 waves)
        out: Tensor = self.place2(F.relu(self.place1(code)))
        return out


def _bags(regions: Segments, tokens: int) -> Tensor:
    """The bag of each tile, then of each region's token."""
    return torch.cat([regions.bag[regions.of], regions.bag[:tokens]])
