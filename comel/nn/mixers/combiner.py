"""Combiner, full attention at sparse cost (Ren et al., NeurIPS 2021, arXiv 2107.05768), its bidirectional form *Fixed*.

A tile looks at the tiles of its own group directly, and at every other group of its bag through one summary, in one softmax:

    q, k, v = (x W_q + b_q) d^-1/2, x W_k + b_k, x W_v + b_v              per head, (M, d)
    Q_r, K_r = maximum over group r of q, of k, number by number          (R, d)
    p(j | r) = softmax over j in r of Q_r . k_j,   V_r = sum_j p(j | r) v_j
    out_i = softmax( [q_i . k_j for j in the own group; q_i . K_r for every other group r] ) [v_j; V_r]

So every tile of the bag has a weight above 0, but those of another group are shared out among its tiles as p(j | r), the same
for all who look at it. A group has one logit, however many its tiles are. The published code counts the own group twice if it
is not causal, directly and by its summary; the paper does not, and neither is it here. The code was not run: the mixer is
built from the equations.

A group is a square of r x r tiles, with the tiles that there are, or without coordinates a stretch of r^2 tiles of the list.
Direct keys grow as r^2, summaries as M / r^2. With ``group_size`` = 0 they balance, r = M^(1/4), and the time grows as M^1.5.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from comel.nn.layout.attention import Summaries, attend_between, beyond
from comel.nn.layout.layout import Layout, PerBag
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card
from comel.nn.mixers.projected import ProjectedMixer, ProjectedOptions

__all__ = ["Combiner", "CombinerOptions"]


class CombinerOptions(ProjectedOptions):
    """Settings of the mixer."""

    group_size: int = Field(0, ge=0, le=64, description="side of a group, in tiles; 0: grows with the bag")
    pooling: Literal["max", "relu-max", "mean"] = Field("max", description="how a group's query and key are made of its tiles'")


class Combiner(ProjectedMixer):
    """See the module."""

    name: ClassVar[str] = "combiner"
    Options = CombinerOptions
    card: ClassVar[Card] = Card(
        title="the own group tile by tile, every other group by one summary",
        sees="grid",
        reach="global",
        exponent=1.5,
        coords="used",
        holes="in no group and no summary; groups without a tile do not exist",
        paper="Ren et al., NeurIPS 2021, arXiv 2107.05768",
        licence="Apache-2.0",
        numbers="equations",
    )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """q, k (N, heads, d), q not yet scaled, v (N, heads, e) -> (N, heads, e)."""
        return self.attend_groups(q, k, v, layout.regions(self._side(layout)))

    def attend_groups(self, q: Tensor, k: Tensor, v: Tensor, groups: Segments) -> Tensor:
        """The same for given groups of the N rows."""
        q = q * q.shape[-1] ** -0.5
        query, key = self._pool(q, groups), self._pool(k, groups)  # (G, heads, d)
        given = groups.softmax((query[groups.of] * k).sum(dim=-1))  # (N, heads), p(j | r)
        value = groups.sum(given.unsqueeze(-1).to(v.dtype) * v)  # (G, heads, e)
        own = torch.arange(len(groups), device=q.device).unsqueeze(1)  # (G, 1)
        others = Summaries(key, value, beyond(groups, own))
        return attend_between(q, k, v, groups, own, scale=1.0, summaries=others)

    def _pool(self, values: Tensor, groups: Segments) -> Tensor:
        if self.options.pooling == "mean":
            return groups.mean(values)
        return groups.max(F.relu(values) if self.options.pooling == "relu-max" else values)

    def _side(self, layout: Layout) -> PerBag:
        fixed: int = self.options.group_size
        return fixed or layout.per_bag(lambda count: max(1, round(count**0.25)))
