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
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.errors import BagError
from comel.nn.neighbours import cells_of

__all__ = ["GDATBlock", "GroupedDoubleAttention", "list_positions", "spatial_groups"]

Grouping = Literal["strided", "region", "spatial"]
Padding = Literal["masked", "published"]

SHORTCUT = 0.1
_SINGLE_REGION_BELOW = 10
_ROWS_AT_ONCE = 16_384


class GroupedDoubleAttention(nn.Module):
    """Grouped double attention over the instances of a bag.

    Args:
        dim: width of the instances; a multiple of ``num_heads``.
        num_heads: attention heads.
        region_size: side r of a region. List-based groupings put the tile list on a square grid (side ceil(sqrt M), raised
            to a multiple of r) and cut it into r x r regions; ``spatial`` cuts the slide into squares of r x r tiles.
        grouping: ``strided`` (published code): token p is the mean over regions of the instance at position p, a strided
            sample of the whole list; ``region`` (the paper's wording): a token is the mean of one region; ``spatial``: the mean
            of the tiles in one square of the slide, by their true coordinates.
        qkv_bias: whether q, k and v have biases.
        pad: ``masked`` takes no padding into a mean or a softmax and drops groups that hold only padding; ``published``
            appends zeros to the list and lets them in, which reproduces the published numbers (list-based groupings only).
        dropout: after the output projection.

    Raises:
        ValueError: an argument does not fit.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        region_size: int = 16,
        grouping: Grouping = "strided",
        qkv_bias: bool = False,
        pad: Padding = "masked",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        if region_size < 1:
            raise ValueError(f"region_size is {region_size}; give at least 1")
        if grouping not in get_args(Grouping):
            raise ValueError(f"grouping is '{grouping}'; choose one of {', '.join(get_args(Grouping))}")
        if pad not in get_args(Padding):
            raise ValueError(f"pad is '{pad}'; choose one of {', '.join(get_args(Padding))}")
        if pad == "published" and grouping == "spatial":
            raise ValueError("pad 'published' belongs to the list-based groupings; use pad 'masked' with 'spatial'")
        self.dim, self.num_heads, self.region_size = dim, num_heads, region_size
        self.grouping, self.pad = grouping, pad
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.k = nn.Linear(dim, dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend within each bag.

        Args:
            x: (B, M, dim) instances.
            coords: (B, M, 2) top-left corners (x, y) of the tiles, in any unit that is the same for all; needed by
                ``spatial`` only. The distance of neighbouring tiles is found from the coordinates.
            mask: (B, M) bool, True where there is an instance. A bag's result does not depend on masked rows; theirs is 0.

        Returns:
            (B, M, dim).

        Raises:
            BagError: ``spatial`` without coords.
        """
        if self.grouping == "spatial" and coords is None:
            raise BagError("grouping 'spatial' needs coords, and a bag has none", "use model.grouping=strided or region")
        if mask is None:
            bags = [self._attend(x[b], None if coords is None else coords[b]) for b in range(len(x))]  # (M, dim) each
            projected: Tensor = self.dropout(self.proj(torch.stack(bags)))  # (B, M, dim)
            return projected
        out = x.new_zeros(x.shape)  # (B, M, dim)
        for b in range(len(x)):
            real = mask[b]  # (M,)
            if real.any():
                bag = self._attend(x[b, real], None if coords is None else coords[b, real])  # (instances, dim)
                out[b, real] = self.dropout(self.proj(bag)).to(out.dtype)
        return out

    def _attend(self, x: Tensor, coords: Tensor | None) -> Tensor:
        """One bag without padding, (M, dim) -> (M, dim), before the output projection."""
        count = len(x)
        if count == 0:
            return x
        if self.pad == "published":
            x = torch.cat([x, x.new_zeros(_side(count, self.region_size) ** 2 - count, self.dim)])  # (M = side^2, dim)
        tokens = self._tokens(x, count, coords)  # (m, dim)
        q, k, v = self._heads(self.q(x)), self._heads(self.k(x)), self._heads(self.v(x))  # (1, heads, M, d)
        token_q, token_k = self._heads(self.q(tokens)), self._heads(self.k(tokens))  # (1, heads, m, d)
        gathered = F.scaled_dot_product_attention(token_q, k, v)  # (1, heads, m, d)
        out = F.scaled_dot_product_attention(q, token_k, gathered)  # (1, heads, M, d)
        out = out + SHORTCUT * v  # (1, heads, M, d)
        return out[0].transpose(0, 1).reshape(len(x), self.dim)[:count]  # (count, dim)

    def _tokens(self, x: Tensor, count: int, coords: Tensor | None) -> Tensor:
        """Group tokens (m, dim): the mean of each group's rows, groups without any left out.

        ``x`` holds ``count`` instances and, under ``pad="published"``, the zeros that fill the grid.
        """
        if self.grouping == "spatial":
            assert coords is not None
            groups = spatial_groups(coords, self.region_size)  # (M,)
        else:
            region, position = list_positions(count, self.region_size, rows=len(x), device=x.device)  # (M,), (M,)
            groups = position if self.grouping == "strided" else region
        _, groups = torch.unique(groups, return_inverse=True)  # (M,) from 0 to m - 1
        number = int(groups.max()) + 1
        sizes = torch.bincount(groups, minlength=number).to(x.dtype)  # (m,)
        return x.new_zeros(number, self.dim).index_add_(0, groups, x) / sizes.unsqueeze(1)

    def _heads(self, x: Tensor) -> Tensor:
        """(n, dim) -> (1, heads, n, dim / heads)."""
        return x.view(1, len(x), self.num_heads, -1).transpose(1, 2)


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


def spatial_groups(coords: Tensor, side: int) -> Tensor:
    """Group of each tile: the square of ``side`` x ``side`` tiles that it lies in, (M,).

    Args:
        coords: (M, 2) top-left corners in any unit.
        side: group side in tiles.
    """
    cells = cells_of(coords) // side  # (M, 2)
    return cells[:, 1] * (int(cells[:, 0].max()) + 1) + cells[:, 0]


class GDATBlock(nn.Module):
    """Pre-norm transformer block: x += GDA(LN(x)); x += MLP(LN(x)).

    Outside training the MLP runs over slices of the rows, so that a bag of 100,000 instances needs no hidden layer of
    its whole length in memory.

    Args:
        dim: width; see :class:`GroupedDoubleAttention` for the attention's arguments.
        mlp_ratio: hidden width of the MLP over ``dim``.
        dropout: after the attention's projection and after both MLP layers.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        region_size: int = 16,
        grouping: Grouping = "strided",
        pad: Padding = "masked",
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = GroupedDoubleAttention(dim, num_heads, region_size, grouping, pad=pad, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.fc2 = nn.Linear(int(dim * mlp_ratio), dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, M, dim) -> (B, M, dim); ``coords`` and ``mask`` as in :meth:`GroupedDoubleAttention.forward`."""
        x = x + self.attention(self.norm1(x), coords, mask)  # (B, M, dim)
        if torch.is_grad_enabled():
            return x + self._mlp(x)
        x = x.contiguous()
        for rows in x.view(-1, x.shape[-1]).split(_ROWS_AT_ONCE):  # (up to _ROWS_AT_ONCE, dim)
            rows += self._mlp(rows)
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))  # (..., dim * mlp_ratio)
        change: Tensor = self.dropout(self.fc2(hidden))  # (..., dim)
        return change
