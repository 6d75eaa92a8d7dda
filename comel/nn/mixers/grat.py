"""GRAT, full attention on blocks of pairs (Ren, Yu, He, Yuille, Chen, "Grouping First, Attending Smartly", 2025,
arXiv 2505.14687).

All tiles of a block look at the same keys, with the weights and the scale of plain attention:

    out_i = softmax over j in S of d^-1/2 q_i . k_j, times v_j

    b, surrounding:  S = the tiles of the blocks at most ``reach`` blocks away in either direction
    x, criss-cross:  S = the tiles of the blocks in the same row or in the same column of blocks

There are no parameters beside those of plain attention: the weights of the mixer ``attention`` load, and a model that was
trained on bags small enough for it goes on to larger ones. :meth:`GroupedAttention.kept_mass` says how much of full attention
the pairs hold on a bag.

A block is a square of r x r tiles, with the tiles that there are; a block that stands alone looks at itself. Pattern b costs
at most (2 reach + 1)^2 r^2 keys a tile, x the tiles of two bands of the slide, about 2 r M^1.5 pairs on tissue without holes.
Without coordinates a block is a stretch of r^2 tiles of the list; pattern b takes the stretches before and after, and x is
refused.

The published code is the criss-cross for video. Its condition on the time is left out: a slide has one time, and would get full
attention. Block sizes of the paper's pictures are not published; a block of its videos has 256 tokens, r = 16.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from comel.nn.layout.attention import attend_between, split
from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card
from comel.nn.mixers.projected import ProjectedMixer, ProjectedOptions

__all__ = ["GroupedAttention", "GroupedAttentionOptions"]

_PAIRS_AT_ONCE = 1 << 22


class GroupedAttentionOptions(ProjectedOptions):
    """Settings of the mixer."""

    block_size: int = Field(8, ge=1, le=64, description="side of a block, in tiles")
    pattern: Literal["b", "x"] = Field("b", description="keys: b, the blocks around; x, the blocks in the same row or column")
    reach: int = Field(1, ge=0, le=8, description="pattern b: how many blocks away a block is still seen")


class GroupedAttention(ProjectedMixer):
    """See the module."""

    name: ClassVar[str] = "grat"
    Options = GroupedAttentionOptions
    card: ClassVar[Card] = Card(
        title="plain attention among blocks near each other, or in a row and a column of blocks",
        sees="grid",
        reach="local",
        exponent=1.0,
        coords="used",
        holes="in no block; blocks without a tile do not exist",
        paper="Ren et al. 2025, arXiv 2505.14687",
        licence="none stated",
        numbers="equations",
    )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """The attention itself: q, k (N, heads, d), v (N, heads, e) -> (N, heads, e).

        Raises:
            BagError: pattern x without coordinates.
        """
        return attend_between(q, k, v, *self._blocks(layout))

    @torch.no_grad()
    def kept_mass(self, x: Tensor, layout: Layout) -> Tensor:
        """The weight that full attention gives to the pairs that are looked at, mean over tiles and heads.

        Time grows with the square of the tiles; it is meant for small bags.

        Args:
            x: (N, dim) packed rows.
            layout: of their bags.

        Returns:
            (B,) above 0 and at most 1; 1 for a bag without a tile.

        Raises:
            BagError: pattern x without coordinates.
        """
        blocks, near = self._blocks(layout)
        q, k = split(self.q(x), self.width.heads), split(self.k(x), self.width.heads)  # (N, heads, d)
        kept, first = [], 0
        for count in layout.counts.tolist():
            bag = slice(first, first + count)
            first += count
            mass = k.new_zeros(())
            at_once = max(1, _PAIRS_AT_ONCE // max(1, count * self.width.heads))
            for rows in torch.arange(bag.start, bag.stop, device=x.device).split(at_once):
                logits = torch.einsum("nhd,mhd->nhm", q[rows], k[bag]) * q.shape[-1] ** -0.5
                of, seen = blocks.of[rows], torch.zeros(len(rows), len(blocks) + 1, dtype=torch.bool, device=x.device)
                seen.scatter_(1, torch.where(near[of] < 0, len(blocks), near[of]), True)
                weights = torch.softmax(logits, dim=-1) * seen[:, None, blocks.of[bag]]  # (n, heads, count)
                mass = mass + weights.sum()
            kept.append(mass / (count * self.width.heads) if count else torch.ones_like(mass))
        return torch.stack(kept)

    def _blocks(self, layout: Layout) -> tuple[Segments, Tensor]:
        """The blocks, and for each the blocks whose tiles it looks at (G, K), -1 for none."""
        size = self.options.block_size
        if self.options.pattern == "b":
            return layout.regions(size), layout.neighbouring_regions(size, self.options.reach)
        layout.require_coords("pattern 'x' of mixer 'grat'", "take pattern b, or extract the slide again")
        return layout.squares(size), layout.crossing_squares(size)
