"""Linear attention with relative positions (Luo et al., NeurIPS 2021, arXiv 2106.12566).

    z_i = sum_j exp(q_i . k_j + b[j - i]) v_j / sum_j exp(q_i . k_j + b[j - i]),   q and k of unit length per head

exp(q . k) is replaced by phi(q) . phi(k) with positive random features phi(u) = m^-1/2 exp(Omega u - |u|^2 / 2), drawn once
and kept with the weights. The paper takes b for all offsets, by Fourier transform. Here b has entries up to ``reach`` tiles
and one number beyond, so that the sum over the slide is plain linear attention, and the tiles near by are corrected for:

    num_i = e^(b_out) phi(q_i) (sum_j phi(k_j) v_j^T) + sum_near (e^b - e^(b_out)) (phi(q_i) . phi(k_j)) v_j

which is exact for such a b, linear in the tiles, and costs holes nothing. Without coordinates only the first part is there.
Rebuilt from the equations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["KernelizedAttention"]

_MOST = 8.0
"""Of |b|: beyond it, sums of very different size lose digits."""


class KernelizedAttention(nn.Module):
    """See the module.

    Args:
        heads: attention heads.
        width: of a head, d.
        reach: R, in tiles.
        features: m.
    """

    def __init__(self, heads: int, width: int, reach: int = 3, features: int = 64) -> None:
        super().__init__()
        self.reach = reach
        self.b = nn.Parameter(torch.zeros(heads, 2 * reach + 1, 2 * reach + 1))
        self.b_out = nn.Parameter(torch.zeros(heads))
        self.register_buffer("omega", torch.randn(heads, features, width))

    omega: Tensor

    def forward(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """(N, heads, d) each -> (N, heads, d)."""
        with torch.autocast(q.device.type, enabled=False):
            wide = q.dtype if q.dtype == torch.float64 else torch.float32
            phi_q, phi_k = self._features(q.to(wide)), self._features(k.to(wide))  # (N, heads, m)
            values = torch.cat([v.to(wide), torch.ones_like(v[..., :1], dtype=wide)], dim=-1)  # the last one counts
            beyond = self.b_out.to(wide).clamp(-_MOST, _MOST).exp().view(1, -1, 1)
            total = beyond * self._over_the_slide(phi_q, phi_k, values, layout)
            if layout.placed:
                total = total + self._near(phi_q, phi_k, values, beyond, layout)
            found: Tensor = (total[..., :-1] / total[..., -1:].clamp_min(torch.finfo(wide).tiny)).to(v.dtype)
            return found

    def _features(self, u: Tensor) -> Tensor:
        u = F.normalize(u, dim=-1, eps=1e-6)
        raised = torch.einsum("nhd,hmd->nhm", u, self.omega.to(u.dtype)) - u.square().sum(dim=-1, keepdim=True) / 2
        made: Tensor = raised.exp() / self.omega.shape[1] ** 0.5
        return made

    def _over_the_slide(self, phi_q: Tensor, phi_k: Tensor, values: Tensor, layout: Layout) -> Tensor:
        outs = []
        counts = layout.counts.tolist()
        for queries, keys, own in zip(phi_q.split(counts), phi_k.split(counts), values.split(counts), strict=True):
            outs.append(torch.einsum("nhm,hme->nhe", queries, torch.einsum("nhm,nhe->hme", keys, own)))
        return torch.cat(outs)

    def _near(self, phi_q: Tensor, phi_k: Tensor, values: Tensor, beyond: Tensor, layout: Layout) -> Tensor:
        side = 2 * self.reach + 1
        weight = self.b.to(phi_q.dtype).clamp(-_MOST, _MOST).exp().flatten(1) - beyond.view(-1, 1)  # (heads, side^2)
        table = layout.neighbours(side)
        keys = torch.cat([phi_k, torch.zeros_like(phi_k[:1])])
        own = torch.cat([values, torch.zeros_like(values[:1])])
        total = torch.zeros_like(values)
        for tap in range(side * side):
            rows = table[:, tap]
            match = (phi_q * keys[rows]).sum(dim=-1) * weight[:, tap]  # (N, heads)
            total = total + match.unsqueeze(-1) * own[rows]
        return total
