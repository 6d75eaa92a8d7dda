"""A gated linear unit with norms on both factors (Abdullah and Aydin 2024, arXiv 2405.15953, "Activator").

    u = N(GELU(x W_1 + b_1)),  v = N(x W_2 + b_2),  out = (u * v) W_3 + b_3

N is one LayerNorm for both factors. Every instance by itself.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["GatedLinearUnit"]


class GatedLinearUnit(nn.Module):
    """See the module.

    Args:
        dim: width of the instances.
        hidden: width of the factors.
        dropout: at the end.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc3 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Packed rows (N, dim) -> (N, dim)."""
        out: Tensor = self.dropout(self.fc3(self.norm(F.gelu(self.fc1(x))) * self.norm(self.fc2(x))))
        return out
