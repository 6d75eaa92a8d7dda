"""Several learned latents attend to the instances, then to each other; the bag is their mean.

    L <- L + Attention(query LN L, keys and values LN' h);   L <- L + Attention(LN L);   L <- L + MLP(LN L);   z = mean LN L

A bag may so be described by more than one finding at once: each latent reads it by itself before they meet. It is how FIT
(Chen and Li 2023, arXiv 2305.12689) and the instance queries of Group Pose (Liu et al., ICCV 2023) read a set.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.masked import masked_softmax

__all__ = ["LatentPooling"]


class LatentPooling(nn.Module):
    """See the module.

    Args:
        dim: width of the instances and of the latents; a multiple of ``heads``.
        heads: attention heads; the weight of an instance is the mean over heads and latents.
        latents: how many.
        ratio: hidden width of the latents' MLP over ``dim``.

    Raises:
        ValueError: ``heads`` do not divide ``dim``, or there is no latent.
    """

    def __init__(self, dim: int, heads: int = 8, latents: int = 8, ratio: float = 2.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        if latents < 1:
            raise ValueError(f"latents is {latents}; give at least 1")
        self.heads = heads
        self.latents = nn.Parameter(torch.randn(latents, dim) * 0.02)
        self.norm_latents, self.norm_instances = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_among = nn.LayerNorm(dim)
        self.among_q, self.among_k, self.among_v, self.among_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_mlp = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, int(dim * ratio)), nn.Linear(int(dim * ratio), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (B, M, dim), mask (B, M) -> bag features (B, dim), mean attention (B, M)."""
        seen = self.norm_instances(h)
        q = self._split(self.q(self.norm_latents(self.latents)))  # (latents, heads, d)
        k, v = self._split(self.k(seen)), self._split(self.v(seen))  # (B, M, heads, d)
        logits = torch.einsum("lhd,bmhd->bmlh", q, k) / q.shape[-1] ** 0.5
        attention = masked_softmax(logits.flatten(2), mask).view_as(logits)  # (B, M, latents, heads)
        latents = self.latents + self.proj(torch.einsum("bmlh,bmhd->blhd", attention, v).flatten(2))  # (B, latents, dim)
        x = self.norm_among(latents)
        q, k, v = (self._split(linear(x)).transpose(1, 2) for linear in (self.among_q, self.among_k, self.among_v))
        latents = latents + self.among_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        latents = latents + self.fc2(F.gelu(self.fc1(self.norm_mlp(latents))))
        return self.norm(latents).mean(dim=1), attention.mean(dim=(2, 3))

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(-1, (self.heads, -1))
        return parts
