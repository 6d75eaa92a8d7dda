"""Learned tables over the offset of two tiles: added before the softmax, and multiplied after it (URPE).

    A = softmax(q k^T / sqrt d + b[offset]) * c[offset]

With c the rows no longer sum to 1, and that is what lets a network know where a tile is when all tiles look alike (Luo et
al., NeurIPS 2022, arXiv 2205.13401). Offsets are key minus query, in tiles, and those beyond ``reach`` count as at it. b
starts at 0 and c at 1: plain attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["OffsetTables"]


class OffsetTables(nn.Module):
    """See the module.

    Args:
        heads: attention heads.
        reach: R; the tables have (2 R + 1)^2 entries per head.
    """

    def __init__(self, heads: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.b = nn.Parameter(torch.zeros((2 * reach + 1) ** 2, heads))
        self.c_minus_one = nn.Parameter(torch.zeros((2 * reach + 1) ** 2, heads))

    def bias(self, layout: Layout, queries: Tensor, keys: Tensor) -> Tensor:
        """b for rows of queries (g, n) and keys (g, m), (g, heads, n, m)."""
        return self.b[self._entry(layout, queries, keys)].permute(0, 3, 1, 2)

    def factor(self, layout: Layout, queries: Tensor, keys: Tensor) -> Tensor:
        """c for rows of queries (g, n) and keys (g, m), (g, heads, n, m)."""
        return 1 + self.c_minus_one[self._entry(layout, queries, keys)].permute(0, 3, 1, 2)

    def _entry(self, layout: Layout, queries: Tensor, keys: Tensor) -> Tensor:
        offset = layout.cells[keys].unsqueeze(1) - layout.cells[queries].unsqueeze(2)  # (g, n, m, 2)
        column, row = offset.clamp(-self.reach, self.reach).unbind(dim=-1)
        return (row + self.reach) * (2 * self.reach + 1) + column + self.reach
