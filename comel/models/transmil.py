"""TransMIL: a transformer over the bag, with positions from a convolution over its tiles (Shao et al., NeurIPS 2021).

    h = relu(W x + b), and the first instances again until they fill a square;  a class token in front
    t <- t + NystromAttention(LN t)
    PPEG: the tokens as a square image, plus its depthwise convolutions of 7 x 7, 5 x 5 and 3 x 3; the class token passes
    t <- t + NystromAttention(LN t)
    z = LN(class token), logits = head(z)

Attention is what the class token attends to in the last layer, mean over the heads. Nystrom attention may yield weights below
zero, which count as zero. The weight of a repetition is its instance's, the class token's own is left out, and the rest is
scaled to sum to 1; it carries no gradient.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.models.base import AttentionOptions
from comel.models.heads import Embedding, HeadedModel
from comel.nn.nystrom import NystromAttention

__all__ = ["PPEG", "TransMIL", "TransMILOptions"]

_LARGEST = 7


class TransMILOptions(AttentionOptions):
    """Settings of the model; the defaults are the paper's."""

    landmarks: int = Field(256, ge=1, le=4096, description="landmarks of the Nystrom attention")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout after each attention")


class PPEG(nn.Module):
    """Pyramid position encoding generator: tokens (1, side * side, dim), row by row -> the same with their neighbours."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim) for k in (_LARGEST, 5, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        side = math.isqrt(tokens.shape[1])
        image = tokens.transpose(1, 2).unflatten(2, (side, side)).contiguous()  # (1, dim, side, side)
        # Convolutions are linear in their kernels: one with the summed kernel replaces all three, in a sixth of the time.
        kernels, biases = [], []
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            kernels.append(F.pad(convolution.weight, [_LARGEST // 2 - convolution.kernel_size[0] // 2] * 4))
            biases.append(convolution.bias)
        kernel, bias = torch.stack(kernels).sum(dim=0), torch.stack(biases).sum(dim=0)
        neighbours = F.conv2d(image, kernel, bias, padding=_LARGEST // 2, groups=len(kernel))
        placed: Tensor = (image + neighbours).flatten(2).transpose(1, 2)
        return placed


class TransMILTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim), bag feature (B, dim), attention (B, M); one bag at a time."""

    def __init__(self, dimension: int, options: TransMILOptions) -> None:
        super().__init__()
        self.embedding = Embedding(dimension, options.dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, options.dim))
        self.norm1 = nn.LayerNorm(options.dim)
        self.attention1 = NystromAttention(options.dim, options.num_heads, options.landmarks, options.dropout)
        self.positions = PPEG(options.dim)
        self.norm2 = nn.LayerNorm(options.dim)
        self.attention2 = NystromAttention(options.dim, options.num_heads, options.landmarks, options.dropout)
        self.norm = nn.LayerNorm(options.dim)

    def forward(
        self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        embedded = self.embedding(features)
        if mask is None:
            bags = [self._bag(bag) for bag in embedded]
            h, z, attention = (torch.stack(part) for part in zip(*bags, strict=True))
            return h, z, attention
        bags = [self._bag(bag[real]) for bag, real in zip(embedded, mask, strict=True)]
        z = torch.stack([z for _, z, _ in bags])
        h, attention = z.new_zeros(embedded.shape), z.new_zeros(mask.shape)
        for b, (instances, _, weights) in enumerate(bags):
            h[b, mask[b]], attention[b, mask[b]] = instances.to(h.dtype), weights.to(h.dtype)
        return h, z, attention

    def _bag(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One bag without padding, (M, dim) -> instances (M, dim), bag feature (dim,), attention (M,)."""
        count = len(h)
        repeated = (math.isqrt(count - 1) + 1) ** 2 - count
        token = self.class_token.to(h.dtype)
        tokens = torch.cat([token, h.unsqueeze(0), h[:repeated].unsqueeze(0)], dim=1)  # (1, 1 + side * side, dim)
        tokens = tokens + self.attention1(self.norm1(tokens))[0]
        tokens = torch.cat([tokens[:, :1], self.positions(tokens[:, 1:])], dim=1)
        attended, row = self.attention2(self.norm2(tokens), weigh=True)
        tokens = self.norm(tokens + attended)[0]
        weights = row[0, 1:].clamp_min(0) + torch.finfo(row.dtype).tiny
        weights[:repeated] += weights[count:]
        weights = weights[:count]
        return tokens[1 : count + 1], tokens[0], weights / weights.sum()


class TransMIL(HeadedModel):
    """See the module."""

    Options = TransMILOptions
    adapter_targets = ("embed", "q", "k", "v", "proj")
    options: TransMILOptions

    def make_trunk(self) -> nn.Module:
        """See :class:`TransMILTrunk`."""
        return TransMILTrunk(self.dimension, self.options)
