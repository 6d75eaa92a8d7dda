"""A gated feed-forward part that looks at the tiles around (GDFN of Restormer, as in DLGSANet: Li et al., ICCV 2023).

    [a, b] = DW_3(x W_in),   out = (GELU(a) * b) W_out

DW_3 is a depthwise convolution over the 3 x 3 tiles around each; a hole adds nothing. No biases. Without coordinates it is
left out, and each tile is by itself.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout

__all__ = ["GatedConvolution"]


class GatedConvolution(nn.Module):
    """See the module.

    Args:
        dim: width of the instances.
        hidden: width of each of a and b.
        dropout: at the end.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, 2 * hidden, bias=False)
        self.around = SparseDepthwise(2 * hidden, 3, bias=False)
        self.project_out = nn.Linear(hidden, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Packed rows (N, dim) -> (N, dim)."""
        h = self.project_in(x)  # (N, 2 hidden)
        if layout.placed:
            h = self.around(h, layout)
        a, b = h.chunk(2, dim=-1)
        out: Tensor = self.dropout(self.project_out(F.gelu(a) * b))
        return out
