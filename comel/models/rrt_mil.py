"""RRT-MIL: instances re-embedded by regional and cross-regional attention, then pooled (Tang et al., CVPR 2024).

    h = dropout(relu(W x + b))
    h <- h + R-MSA(LN h);  h <- h + CR-MSA(LN h);  h <- LN h;  z = attention pooling (eq. 8 of Ilse et al. 2018) of h

The tile list fills a square row by row, and the square is cut into ``regions`` x ``regions`` squares.

R-MSA: self-attention within each region. EPEG convolves its logits along the queries, one kernel per head:
softmax(L + conv(L)) V with L = Q K^T / sqrt d. Since L is linear in Q, this is attention with the queries Q + conv(Q), a plain
scaled dot product that stores no logits; the published bias of the convolution is one constant per head, which a softmax does
not see.

CR-MSA: k representatives of each region attend to those of the other regions, and are handed back:

    S = Phi h                                        (tokens, k), Phi learned
    r_k = sum_p softmax_p(S)_pk h_p;  r_k <- self-attention over the regions, for each k
    out_p = sum_k softmax_k(S)_pk minmax_p(S)_pk r_k

The published code fills the square with zeros, which enter every softmax. Here padding enters none, and regions that contain
nothing else are left out. Its pooling has a ReLU where the equation has tanh.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from comel.models.base import MAX_WIDTH, AttentionOptions
from comel.models.heads import Embedding, EmbeddingOptions, HeadedModel
from comel.nn.masked import masked_softmax
from comel.nn.poolings.attention import AttentionPooling
from comel.nn.tokens import TokenConvolution, merge_heads, split_heads

__all__ = ["RRTMIL", "CrossRegionAttention", "RRTMILOptions", "RegionAttention", "region_places"]

_NO_SPREAD = 1e-8


class RRTMILOptions(AttentionOptions, EmbeddingOptions):
    """Settings of the model; the defaults are the published code's."""

    regions: int = Field(8, ge=1, le=256, description="regions along a side of the square")
    position_kernel: int = Field(15, ge=1, le=1023, description="tokens that the position encoding spans; odd")
    representatives: int = Field(3, ge=1, le=256, description="tokens by which a region attends to the others")
    attention_dropout: float = Field(0.1, ge=0, lt=1, description="dropout after each attention")
    attention_hidden: int = Field(128, ge=1, le=MAX_WIDTH, description="hidden width of the attention pooling")

    @field_validator("position_kernel")
    @classmethod
    def _kernel_has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("give an odd number")
        return kernel


class RegionAttention(nn.Module):
    """Multi-head self-attention within each of R sequences, with EPEG if ``kernel`` sets its span.

    Args:
        dim: width of the tokens; a multiple of ``num_heads``.
        num_heads: attention heads.
        kernel: tokens that EPEG spans; None for none.
        dropout: dropout after the output projection.
    """

    def __init__(self, dim: int, num_heads: int, kernel: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.positions = None if kernel is None else TokenConvolution(num_heads, kernel)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (R, n, dim), mask (R, n) True for a token, at least one per sequence -> (R, n, dim)."""
        q, k, v = (split_heads(linear(x), self.num_heads) for linear in (self.q, self.k, self.v))  # (R, heads, n, d)
        if self.positions is not None:
            q = q if mask is None else q * mask[:, None, :, None]
            q = q + self.positions(q)
        seen = None if mask is None else mask[:, None, None, :]
        mixed: Tensor = self.dropout(self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))))
        return mixed


class CrossRegionAttention(nn.Module):
    """CR-MSA, see the module.

    Args:
        dim: width of the tokens; a multiple of ``num_heads``.
        num_heads: attention heads.
        representatives: k.
        dropout: dropout after the attention's projection.
    """

    def __init__(self, dim: int, num_heads: int, representatives: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.phi = nn.Linear(dim, representatives, bias=False)
        self.attention = RegionAttention(dim, num_heads, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (R, n, dim), mask (R, n) True for a token, at least one per region -> (R, n, dim)."""
        logits = self.phi(x)  # (R, n, k)
        representatives = torch.einsum("rnk,rnd->krd", masked_softmax(logits, mask), x)
        representatives = self.attention(representatives)  # (k, R, dim)
        real = mask.unsqueeze(-1)
        low = logits.masked_fill(~real, torch.inf).amin(dim=1, keepdim=True)
        high = logits.masked_fill(~real, -torch.inf).amax(dim=1, keepdim=True)
        share = (logits - low) / (high - low + _NO_SPREAD) * torch.softmax(logits, dim=-1)
        return torch.einsum("rnk,krd->rnd", share, representatives)


class RRTTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim), bag feature (B, dim), attention (B, M)."""

    def __init__(self, dimension: int, options: RRTMILOptions) -> None:
        super().__init__()
        dim, heads, dropout = options.dim, options.num_heads, options.attention_dropout
        self.regions = options.regions
        self.embedding = Embedding(dimension, dim, options.dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.within = RegionAttention(dim, heads, options.position_kernel, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.across = CrossRegionAttention(dim, heads, options.representatives, dropout)
        self.norm = nn.LayerNorm(dim)
        self.pool = AttentionPooling(dim, options.attention_hidden)

    def forward(
        self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        embedded = self.embedding(features)
        if mask is None:
            h = torch.stack([self._reembed(bag) for bag in embedded])
        else:
            bags = [self._reembed(bag[real]) for bag, real in zip(embedded, mask, strict=True)]
            h = bags[0].new_zeros(embedded.shape)
            for b, bag in enumerate(bags):
                h[b, mask[b]] = bag
        z, attention = self.pool(h, mask)
        return h, z, attention

    def _reembed(self, h: Tensor) -> Tensor:
        """One bag without padding, (M, dim) -> (M, dim)."""
        region, place, area = region_places(len(h), self.regions, h.device)
        _, region = torch.unique(region, return_inverse=True)
        number = int(region.max()) + 1
        tokens = h.new_zeros(number, area, h.shape[-1]).index_put((region, place), h)
        real = torch.zeros(number, area, dtype=torch.bool, device=h.device).index_put((region, place), region.new_ones(()) > 0)
        tokens = tokens + self.within(self.norm1(tokens), real)
        tokens = tokens + self.across(self.norm2(tokens), real)
        instances: Tensor = self.norm(tokens[region, place])
        return instances


def region_places(count: int, regions: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, int]:
    """The places of a list of instances in a square that is cut into regions x regions squares.

    Args:
        count: instances.
        regions: regions along a side.
        device: the result's device.

    Returns:
        each instance's region (count,), its place in there, row by row, (count,), and the places of a region. A region's
        instances have its first places, without a gap.
    """
    side = -(-(math.isqrt(count - 1) + 1) // regions)  # of a region
    index = torch.arange(count, device=device)
    row, column = index // (side * regions), index % (side * regions)
    return (row // side) * regions + column // side, (row % side) * side + column % side, side * side


class RRTMIL(HeadedModel):
    """See the module."""

    Options = RRTMILOptions
    adapter_targets = ("embed", "q", "k", "v", "proj")
    options: RRTMILOptions

    def make_trunk(self) -> nn.Module:
        """See :class:`RRTTrunk`."""
        return RRTTrunk(self.dimension, self.options)
