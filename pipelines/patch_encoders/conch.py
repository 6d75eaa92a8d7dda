"""CONCH v1.5, the tile encoder of TITAN: a vision transformer and one learned query that attends to its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.patch_encoders.facts import EncoderFacts
from pipelines.patch_encoders.timm_vit import TimmEncoder

__all__ = ["AttentionalPooler", "ConchV15"]

_HEADS = 8


class AttentionalPooler(nn.Module):
    """Multi-head attention of learned queries over tokens (the pooler of CoCa, Yu et al. 2022).

    Args:
        dimension: D, of queries and output.
        token_dimension: T, of the tokens.
        heads: number of heads; divides D.
        queries: Q, number of queries.
    """

    def __init__(self, dimension: int, token_dimension: int, heads: int = _HEADS, queries: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(queries, dimension))
        self.ln_k = nn.LayerNorm(token_dimension)
        self.ln_q = nn.LayerNorm(dimension)
        self.to_q = nn.Linear(dimension, dimension, bias=False)
        self.to_kv = nn.Linear(token_dimension, 2 * dimension, bias=False)
        self.to_out = nn.Linear(dimension, dimension, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, T) -> (B, Q, D)."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)  # (B, Q, D)
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)  # (B, N, D) each
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]  # (B, heads, ., D/heads)
        pooled: torch.Tensor = self.to_out(functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))
        return pooled


class _Conch(nn.Module):
    """The parts under the names in the published weights."""

    def __init__(self, trunk: Any, dimension: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = AttentionalPooler(dimension, trunk.num_features)
        self.ln_contrast = nn.LayerNorm(dimension)


class ConchV15(TimmEncoder):
    """The pooled and normalised answer to the single query, 768 values."""

    def build(self, timm: Any, facts: EncoderFacts) -> nn.Module:
        """The network with random weights."""
        trunk = timm.create_model(
            "vit_large_patch16_224", pretrained=False, num_classes=0, img_size=facts.input_size, init_values=1e-6
        )
        return _Conch(trunk, facts.dimension)

    def features(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors (B, 768) of ``pixels`` (B, 3, 448, 448)."""
        tokens = network.trunk.forward_features(pixels)  # (B, 1 + patches, 1024)
        vectors: torch.Tensor = network.ln_contrast(network.attn_pool_contrast(tokens)[:, 0])
        return vectors
