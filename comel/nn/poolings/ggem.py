"""Group generalized mean pooling (Ko et al. 2022, arXiv 2212.04114): between the mean and the maximum, learned per group.

    y_k = ( 1/M sum_m max(x_mk, eps)^p_g )^(1/p_g)   for channel k of group g of consecutive channels

p = 1 is the mean, p to infinity the maximum. The powers overflow, so that logarithms are computed with: y =
exp((logsumexp_m(p log max(x, eps)) - log M) / p). Negative values count as eps, so that the instances pass a softplus first
unless ``before`` says otherwise.

It has no attention; the weight of an instance is the mean over the channels of its share max(x_mk, eps)^p / sum_m' (...).
Rebuilt from the equations; that the start is p = 3 is common practice of generalized means.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GroupGeneralizedMean"]

_LEAST = 1e-2
"""Of p: below it, 1/p explodes."""


class GroupGeneralizedMean(nn.Module):
    """See the module.

    Args:
        dim: width of the instances; a multiple of ``groups``.
        groups: G, each with an exponent of its own.
        start: of the exponents.
        before: what makes the instances positive.
        eps: least value that enters a power.

    Raises:
        ValueError: ``groups`` do not divide ``dim``.
    """

    def __init__(
        self,
        dim: int,
        groups: int = 8,
        start: float = 3.0,
        before: Literal["softplus", "relu", "none"] = "softplus",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim {dim} is not a multiple of {groups} groups")
        if before not in ("softplus", "relu", "none"):
            raise ValueError(f"before is '{before}'; choose softplus, relu or none")
        self.before, self.eps = before, eps
        self.p = nn.Parameter(torch.full((groups,), float(start)))

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (B, M, dim), mask (B, M) -> bag features (B, dim), mean shares (B, M)."""
        with torch.autocast(h.device.type, enabled=False):
            x = h if h.dtype == torch.float64 else h.float()
            if self.before != "none":
                x = F.softplus(x) if self.before == "softplus" else F.relu(x)
            p = self.p.to(x.dtype).clamp_min(_LEAST).repeat_interleave(x.shape[-1] // len(self.p))  # (dim,)
            powers = p * x.clamp_min(self.eps).log()  # (B, M, dim), in logarithms
            count = torch.full((len(x), 1), x.shape[1], dtype=x.dtype, device=x.device)
            if mask is not None:
                powers = powers.masked_fill(~mask.unsqueeze(-1), -torch.inf)
                count = mask.sum(dim=1, keepdim=True).to(x.dtype)
            total = torch.logsumexp(powers, dim=1)  # (B, dim)
            z = torch.exp((total - count.log()) / p)
            shares = torch.exp(powers - total.unsqueeze(1)).mean(dim=-1)  # (B, M)
        return z.to(h.dtype), shares.to(h.dtype)
