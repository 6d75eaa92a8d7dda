"""Nystrom attention (Xiong et al., "Nystromformer", AAAI 2021): softmax attention through m << n landmarks.

    Q~, K~ = means of Q and K over m segments of the sequence
    S      = softmax(Q K~^T / sqrt d)  pinv(softmax(Q~ K~^T / sqrt d))  softmax(Q~ K^T / sqrt d)
    out    = S V + convolution of V along the sequence

Multiplied from the right, the first and the last factor are plain scaled dot-product attentions, so nothing larger than (m,
m) is stored beside the sequence. With as many landmarks as tokens the three factors are one and the same, and S is exact.

The published code fills the sequence with zeros up to a multiple of m, and they enter the means and the softmax. Here
segments differ in length by at most one token and nothing is filled; a sequence no longer than m attends exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.tokens import TokenConvolution, merge_heads, split_heads

__all__ = ["Landmarks", "NystromAttention", "pseudo_inverse", "segment_means"]

_KERNEL = 33


class NystromAttention(nn.Module):
    """Multi-head Nystrom self-attention with a convolution of the values beside it.

    Args:
        dim: width of the tokens; a multiple of ``num_heads``.
        num_heads: attention heads.
        landmarks: m.
        dropout: after the output projection.
    """

    def __init__(self, dim: int, num_heads: int = 8, landmarks: int = 256, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.landmarks = num_heads, landmarks
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.residual = TokenConvolution(num_heads, _KERNEL)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, weigh: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend within each sequence.

        Args:
            x: (B, n, dim).
            weigh: also give the first token's row of S, mean over the heads, (B, n); without a gradient.

        Returns:
            (B, n, dim), and that row or None.
        """
        q, k, v = (split_heads(linear(x), self.num_heads) for linear in (self.q, self.k, self.v))  # (B, heads, n, d)
        if x.shape[1] <= self.landmarks:
            attended = F.scaled_dot_product_attention(q, k, v)
            weights = _softmax_of(q[:, :, :1].detach(), k.detach()) if weigh else None  # (B, heads, 1, n)
        else:
            landmarks = Landmarks.of(q, k, self.landmarks)
            attended = landmarks.attend(q, k, v)
            weights = landmarks.weights(q[:, :, :1], k) if weigh else None
        out = self.dropout(self.proj(merge_heads(attended + self.residual(v))))
        return out, None if weights is None else weights.mean(dim=1)[:, 0]


@dataclass(frozen=True)
class Landmarks:
    """What a sequence is attended to through.

    Attributes:
        q, k: means of queries and keys over the segments, (B, heads, m, d).
        inverse: pinv(softmax(q k^T / sqrt d)), (B, heads, m, m).
    """

    q: Tensor
    k: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, q: Tensor, k: Tensor, count: int, iterations: int = 6) -> Landmarks:
        """From the queries and keys of a sequence, (B, heads, n, d) each; ``count`` landmarks, at most n.

        ``iterations`` are those of :func:`pseudo_inverse`.
        """
        q, k = segment_means(q, count), segment_means(k, count)
        return cls(q, k, pseudo_inverse(_softmax_of(q, k), iterations))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``S V`` for q, k, v (B, heads, n, d) -> (B, heads, n, d)."""
        gathered = F.scaled_dot_product_attention(self.q, k, v)  # (B, heads, m, d)
        spread = self.inverse @ gathered.to(self.inverse.dtype)
        return F.scaled_dot_product_attention(q, self.k, spread.to(q.dtype))

    @torch.no_grad()
    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Rows of S for some queries (B, heads, t, d) over all keys (B, heads, n, d): (B, heads, t, n), without a gradient.

        Head by head, lest (heads, m, n) be stored at once.
        """
        to = _softmax_of(q, self.k).to(self.inverse.dtype) @ self.inverse  # (B, heads, t, m)
        rows = [to[:, h] @ _softmax_of(self.q[:, h], k[:, h]).to(to.dtype) for h in range(q.shape[1])]
        return torch.stack(rows, dim=1)


def segment_means(x: Tensor, segments: int) -> Tensor:
    """Means over consecutive segments as even as can be: (..., n, d) -> (..., segments, d), segments at most n."""
    count = x.shape[-2]
    segment = torch.arange(count, device=x.device) * segments // count
    sizes = torch.bincount(segment, minlength=segments).to(x.dtype)
    sums = x.new_zeros(*x.shape[:-2], segments, x.shape[-1]).index_add_(-2, segment, x)
    return sums / sizes.unsqueeze(-1)


def pseudo_inverse(a: Tensor, iterations: int = 6) -> Tensor:
    """The Moore-Penrose inverse of square matrices (B, heads, m, m), by iteration (Razavi et al. 2014).

    Z_0 = A^T / (|A|_1 |A|_inf);  Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4.  Six iterations are those of the
    Nystromformer; in single precision at least.
    """
    with torch.autocast(a.device.type, enabled=False):
        shape = a.shape
        a = (a if a.dtype == torch.float64 else a.float()).flatten(0, -3)
        size = a.abs()
        scale = size.sum(dim=-2).amax(dim=-1) * size.sum(dim=-1).amax(dim=-1)
        z = a.mT / scale[..., None, None]
        identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
        for _ in range(iterations):
            az = a @ z
            inner = torch.baddbmm(15 * identity, az, 7 * identity - az, alpha=-1)
            z = z @ torch.baddbmm(13 * identity, az, inner, beta=0.25, alpha=-0.25)
        return z.view(shape)


def _softmax_of(q: Tensor, k: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt d)``: (..., n, d), (..., m, d) -> (..., n, m)."""
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
