"""Dynamic position bias (CrossFormer, Wang et al., ICLR 2022, arXiv 2108.00154): a small network from an offset to a bias.

    b(dr, dc) = W_3 relu(N_3(h_2)) + b_3,   h_i = W_i relu(N_i(h_(i-1))) + b_i,   h_0 = W_0 (dr, dc) + b_0

with one output per head and N_i LayerNorms: it takes any offset, so that no table has to be as large as a slide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DynamicBias"]


class DynamicBias(nn.Module):
    """See the module.

    Args:
        heads: attention heads.
        hidden: width of the network. The published code has a sixteenth of the model's width, the paper a quarter.
    """

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.pos_proj = nn.Linear(2, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(hidden, size) for size in (hidden, hidden, heads))

    def forward(self, offsets: Tensor) -> Tensor:
        """Offsets (..., 2), rows first, in tiles or places -> (..., heads)."""
        h: Tensor = self.pos_proj(offsets)
        for norm, linear in zip(self.norms, self.linears, strict=True):
            h = linear(F.relu(norm(h)))
        return h

    def table(self, side: int) -> Tensor:
        """Biases of all offsets from -(side - 1) to side - 1, row by row, ((2 side - 1)^2, heads)."""
        weight = self.pos_proj.weight
        steps = torch.arange(1 - side, side, device=weight.device, dtype=weight.dtype)
        return self.forward(torch.cartesian_prod(steps, steps))
