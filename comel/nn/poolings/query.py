"""One learned query attends to the instances by several heads (as the class token of CrossViT, Chen et al., ICCV 2021).

z = W_o concat_h( softmax_m(q_h k_mh / sqrt d) v_mh ) + b_o,   q = W_q t + b_q, t learned
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.masked import masked_softmax

__all__ = ["QueryPooling"]


class QueryPooling(nn.Module):
    """See the module.

    Args:
        dim: width of the instances; a multiple of ``heads``.
        heads: attention heads; the weight of an instance is their mean.

    Raises:
        ValueError: ``heads`` do not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.token = nn.Parameter(torch.randn(dim) * 0.02)
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (B, M, dim), mask (B, M) -> bag features (B, dim), mean attention (B, M)."""
        q = self.q(self.token).view(self.heads, -1)  # (heads, d)
        k, v = (linear(h).unflatten(-1, (self.heads, -1)) for linear in (self.k, self.v))  # (B, M, heads, d)
        attention = masked_softmax(torch.einsum("hd,bmhd->bmh", q, k) / q.shape[-1] ** 0.5, mask)  # (B, M, heads)
        z: Tensor = self.proj(torch.einsum("bmh,bmhd->bhd", attention, v).flatten(1))
        return z, attention.mean(dim=-1)
