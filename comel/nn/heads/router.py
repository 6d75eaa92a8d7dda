"""Mixture-of-head attention: how much each head counts for an instance (Jin et al., ICML 2025, arXiv 2410.11842).

The first S heads are shared, all instances use them; of the other E each instance uses the K that its router prefers:

    r = softmax(W_g x) over E;  r'_i = K r_i / (sum of the K largest), else 0
    s = S softmax(W_1 x) over S (1 if S = 1);   (a_0, a_1) = 2 softmax(W_0 x);   gates = [a_0 s, a_1 r']

Scaled so that routers that prefer nothing, with K = E, leave plain attention. In training :attr:`HeadRouter.balance` holds
E sum_i (mean of r_i) (share of instances that keep i), K at least, which the loss may add so that no head is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HeadRouter"]


class HeadRouter(nn.Module):
    """See the module.

    Args:
        dim: width of the instances.
        heads: all heads.
        shared: S.
        kept: K, of the others.

    Raises:
        ValueError: numbers that do not fit each other.

    Attributes:
        balance: of the last pass in training; None before, in evaluation, and where no head is routed.
    """

    def __init__(self, dim: int, heads: int, shared: int, kept: int) -> None:
        super().__init__()
        routed = heads - shared
        if shared > heads or kept > routed or (kept == 0 and routed):
            raise ValueError(f"{shared} shared_heads and {kept} routed_heads of {heads} heads do not fit each other")
        self.shared, self.routed, self.kept = shared, routed, kept
        self.route = nn.Linear(dim, routed, bias=False) if kept else None
        self.share = nn.Linear(dim, shared, bias=False) if shared > 1 or not kept else None
        self.between = nn.Linear(dim, 2, bias=False) if shared and kept else None
        self.balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Instances (N, dim) -> gates (N, heads), shared heads first; in single precision at least."""
        parts = []
        if self.shared:
            share = x.new_ones(len(x), 1) if self.share is None else self.shared * _softmax(self.share(x))
            parts.append(share)
        if self.route is not None:
            r = _softmax(self.route(x))
            top = r.topk(self.kept, dim=-1).indices
            chosen = torch.zeros_like(r).scatter(1, top, 1.0)
            parts.append(self.kept * r * chosen / (r * chosen).sum(dim=-1, keepdim=True))
            self.balance = self.routed * (r.mean(dim=0) * chosen.mean(dim=0)).sum() if self.training else None
        if self.between is not None:
            both = 2 * _softmax(self.between(x))
            parts = [parts[0] * both[:, :1], parts[1] * both[:, 1:]]
        return torch.cat(parts, dim=-1)


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
