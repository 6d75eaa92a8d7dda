"""Core context aware attention (Chen et al., ICML 2025, arXiv 2412.12465).

A tile looks at the tiles around it one by one, and at each group farther off through its core, a weighted mean of its tiles, in
one softmax. There are no parameters beside those of plain attention, so the weights of the mixer ``attention`` load:

    q, k, v = x W_q, x W_k, x W_v                                          per head, (M, d)
    a_j = softmax over the tiles of group j of d^-1/2 Q_j . k              Q_j asks for group j
    K_j = a_j k,  V_j = a_j v                                              the core of group j
    out_i = softmax( d^-1/2 q_i . [k of near tiles; K of all other groups] ) [v; V]

Every tile of the bag is seen once, by itself or in a core; a core has one logit, however many its tiles are. Near are the own
group and those at most ``reach`` groups away. A bag that lies within one neighbourhood has full attention, exactly.

The mixer is rebuilt from equations: the authors' repository holds no code of the attention. Their attention is causal, the near
tiles are those before, and the last token of a group asks for it. A bag has no "before", so the mean of the group's queries
asks; ``asker`` = last takes its last tile, row by row. A group is a square of r x r tiles, with the tiles that there are, or
without coordinates a stretch of r^2 tiles of the list. With ``group_size`` = 0, r = (M / 9)^(1/4), for which near tiles and
cores balance, and the time grows as M^1.5; with a number it grows as M^2 / r^2.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from comel.nn.layout.attention import Summaries, attend_between, beyond
from comel.nn.layout.layout import Layout, PerBag
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card
from comel.nn.mixers.projected import ProjectedMixer, ProjectedOptions

__all__ = ["CoreContextAttention", "CoreContextAttentionOptions"]


class CoreContextAttentionOptions(ProjectedOptions):
    """Settings of the mixer."""

    group_size: int = Field(0, ge=0, le=64, description="side of a group, in tiles; 0: grows with the bag")
    reach: int = Field(1, ge=0, le=8, description="groups around the own one whose tiles are seen one by one")
    asker: Literal["mean", "last"] = Field("mean", description="what asks for a group: its mean query, or its last tile's")


class CoreContextAttention(ProjectedMixer):
    """See the module."""

    name: ClassVar[str] = "cca"
    Options = CoreContextAttentionOptions
    card: ClassVar[Card] = Card(
        title="near tiles one by one, every group farther off by its core",
        sees="grid",
        reach="global",
        exponent=1.5,
        coords="used",
        holes="in no group and no core; groups without a tile do not exist",
        paper="Chen et al., ICML 2025, arXiv 2412.12465",
        licence="no code published",
        numbers="equations",
    )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """The attention itself: q, k (N, heads, d), v (N, heads, e) -> (N, heads, e)."""
        side = self._side(layout)
        groups, near = layout.regions(side), layout.neighbouring_regions(side, self.options.reach)
        query = self._asks(q, groups, layout, side) * q.shape[-1] ** -0.5  # (G, heads, d)
        share = groups.softmax((query[groups.of] * k).sum(dim=-1)).unsqueeze(-1)  # (N, heads, 1)
        cores = Summaries(groups.sum(share.to(k.dtype) * k), groups.sum(share.to(v.dtype) * v), beyond(groups, near))
        return attend_between(q, k, v, groups, near, summaries=cores)

    def _asks(self, q: Tensor, groups: Segments, layout: Layout, side: PerBag) -> Tensor:
        if self.options.asker == "mean":
            return groups.mean(q)
        place = layout.place_in_square(side) if layout.placed else groups.rank
        return q[groups.top(place, 1).squeeze(1)]

    def _side(self, layout: Layout) -> PerBag:
        fixed: int = self.options.group_size
        return fixed or layout.per_bag(lambda count: max(1, round((count / 9) ** 0.25)))
