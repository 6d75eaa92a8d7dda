"""Grouped double attention (GDA) and the transformer block around it (Lee et al. 2025, section 3.1; arXiv 2507.02395).

M instances attend through m << M group tokens, so cost and memory grow with M, not with its square:

    Q, K, V = x W_q, x W_k, x W_v                (M, d) per head
    G       = mean of the instances of each group (m, dim);  Q_g, K_g = G W_q, G W_k
    A       = softmax(Q_g K^T / sqrt d) V         (m, d)
    O       = softmax(Q K_g^T / sqrt d) A         (M, d)
    out     = (O + 0.1 V) W_proj

Both attentions are plain scaled dot products, so no (M, m) matrix is stored. The published code also learns one constant per
head inside each softmax; a softmax does not see it, and it is left out.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["GroupedDoubleAttention", "GroupedDoubleAttentionOptions", "list_positions"]

SHORTCUT = 0.1
_SINGLE_REGION_BELOW = 10


class GroupedDoubleAttentionOptions(MixerOptions):
    """Settings of the mixer.

    ``grouping``: ``strided`` (published code): token p is the mean over regions of the instance at position p, a strided
    sample of the whole list; ``region`` (the paper's wording): a token is the mean of one region; ``spatial``: the mean of the
    tiles in one square of the slide, by their true coordinates. The first two put the tile list on a square grid (side
    ceil(sqrt M), raised to a multiple of r) and cut it into r x r regions.

    ``pad``: ``masked`` takes no padding into a mean or a softmax and drops groups that hold only padding; ``published``
    appends zeros to the list and lets them in, which reproduces the published numbers (list-based groupings only).
    """

    region_size: int = Field(16, ge=1, le=256, description="side r of a region or of a spatial group, in tiles")
    grouping: Literal["strided", "region", "spatial"] = Field("strided", description="how instances are grouped")
    pad: Literal["masked", "published"] = Field("masked", description="whether padding enters means and softmaxes")
    qkv_bias: bool = Field(False, description="biases in q, k and v")

    @field_validator("pad")
    @classmethod
    def _published_is_a_list(cls, pad: str, info: ValidationInfo) -> str:
        if pad == "published" and info.data.get("grouping") == "spatial":
            raise ValueError("'published' belongs to the groupings strided and region")
        return pad


class GroupedDoubleAttention(Mixer):
    """See the module."""

    name: ClassVar[str] = "gdat"
    Options = GroupedDoubleAttentionOptions
    card: ClassVar[Card] = Card(
        title="through the means of groups, there and back",
        sees="list",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no group; groups without a tile do not exist",
        paper="Lee et al., ICCV 2025, arXiv 2507.02395",
        licence="none stated",
        numbers="equations",
        ordered=True,
    )

    def __init__(self, width: Width, options: GroupedDoubleAttentionOptions | None = None) -> None:
        super().__init__(width, options)
        dim, bias = width.dim, self.options.qkv_bias
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=bias)
        self.v = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(width.dropout)

    @property
    def uses_places(self) -> bool:
        """With the grouping ``spatial`` alone."""
        return bool(self.options.grouping == "spatial")

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim).

        Raises:
            BagError: ``spatial`` without coordinates.
        """
        if self.options.grouping == "spatial":
            layout.require_coords("grouping 'spatial'", "use model.grouping=strided or region")
        groups = self._groups(layout)  # (N,)
        first, parts = 0, []
        for count in layout.counts.tolist():
            if count:
                rows = slice(first, first + count)
                parts.append(self._attend(x[rows], groups[rows]))  # (M, dim)
            first += count
        mixed: Tensor = self.dropout(self.proj(torch.cat(parts) if len(parts) > 1 else parts[0]))
        return mixed

    def rows(self, x: Tensor, layout: Layout, queries: Tensor) -> Tensor:
        """Both attentions multiplied, softmax(q K_g^T) softmax(Q_g K^T), without the values' shortcut and without padding."""
        tokens = Segments(self._groups(layout), layout.bag).mean(x)
        q, k = self._heads(self.q(x[queries])), self._heads(self.k(x))
        token_q, token_k = self._heads(self.q(tokens)), self._heads(self.k(tokens))
        scale = q.shape[-1] ** -0.5
        to_tokens = torch.softmax(q @ token_k.mT * scale, dim=-1)  # (1, heads, n, m)
        weights: Tensor = (to_tokens @ torch.softmax(token_q @ k.mT * scale, dim=-1))[0]
        return weights

    def _groups(self, layout: Layout) -> Tensor:
        """Group of each row within its bag, (N,)."""
        side = self.options.region_size
        if self.options.grouping == "spatial":
            squares: Tensor = layout.squares(side).of
            return squares
        lists = [list_positions(count, side, device=layout.bag.device) for count in layout.counts.tolist() if count]
        return torch.cat([position if self.options.grouping == "strided" else region for region, position in lists])

    def _attend(self, x: Tensor, groups: Tensor) -> Tensor:
        """One bag (M, dim) and the group of each instance (M,) -> (M, dim), before the output projection."""
        count = len(x)
        if self.options.pad == "published":
            rows = _side(count, self.options.region_size) ** 2
            x = torch.cat([x, x.new_zeros(rows - count, x.shape[1])])  # (M = side^2, dim)
            region, position = list_positions(count, self.options.region_size, rows=rows, device=x.device)
            groups = position if self.options.grouping == "strided" else region
        tokens = Segments(groups, groups.new_zeros(len(groups))).mean(x)  # (m, dim)
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))  # (1, heads, M, d)
        token_q, token_k = self._heads(self.q(tokens)), self._heads(self.k(tokens))  # (1, heads, m, d)
        gathered = F.scaled_dot_product_attention(token_q, k, v)  # (1, heads, m, d)
        out = F.scaled_dot_product_attention(q, token_k, gathered)  # (1, heads, M, d)
        out = out + SHORTCUT * v  # (1, heads, M, d)
        return out[0].transpose(0, 1).reshape(len(x), -1)[:count]  # (count, dim)

    def _heads(self, x: Tensor) -> Tensor:
        """(n, dim) -> (1, heads, n, dim / heads)."""
        return x.view(1, len(x), self.width.heads, -1).transpose(1, 2)


def _side(count: int, region_size: int) -> int:
    """Side of the square grid that holds a list of ``count`` instances."""
    side = math.isqrt(count - 1) + 1
    step = 2 if count < _SINGLE_REGION_BELOW else region_size
    return -(-side // step) * step


def list_positions(
    count: int, region_size: int, *, rows: int | None = None, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Region, and position inside the region, of the entries of a tile list.

    The list fills a square grid row by row; the grid is cut into r x r regions. Under 10 instances there is one region.

    Args:
        count: instances in the list; they decide the grid.
        region_size: r.
        rows: entries to place, more than ``count`` where the list is padded; default ``count``.

    Returns:
        two integer tensors (rows,).
    """
    side = _side(count, region_size)
    r = side if count < _SINGLE_REGION_BELOW else region_size
    index = torch.arange(count if rows is None else rows, device=device)  # (rows,)
    row, column = index // side, index % side  # (rows,), (rows,)
    return (row // r) * (side // r) + column // r, (row % r) * r + column % r
