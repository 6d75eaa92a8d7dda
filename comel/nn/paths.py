"""A stack of blocks read as a sum of paths, each with a weight of its own (Chang et al., ICCV 2023, arXiv 2308.06548).

    x_L = x_0 + sum_l (a_l + f_l);   read = s_0 x_0 + sum_l (s_l a_l + s'_l f_l)

with a_l and f_l what the l-th block's mixer and feed-forward part add, and s one number per channel, 1 at the start. Every
block still gets the plain sum: the weights change what is read, and nothing that a later block sees. Rebuilt from the
equations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from comel.nn.block import Block
from comel.nn.layout.layout import Layout

__all__ = ["PathEnsemble"]


class PathEnsemble(nn.Module):
    """See the module.

    Args:
        blocks: whose outputs are read; a block of another kind counts as one path, by what it changes.
        dim: width of the instances.
    """

    def __init__(self, blocks: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        number = 1 + sum(2 if isinstance(block, Block) else 1 for block in blocks)
        self.scale = nn.Parameter(torch.ones(number, dim))

    def forward(self, x: Tensor, blocks: Sequence[nn.Module], layout: Layout) -> Tensor:
        """Instances x (B, M, dim) through the blocks -> what is read, (B, M, dim)."""
        read, path = self.scale[0] * x, 1
        for block in blocks:
            parts = block.branches(x, layout) if isinstance(block, Block) else (block(x, layout) - x,)
            for part in parts:
                read, x, path = read + self.scale[path] * part, x + part, path + 1
        return read
