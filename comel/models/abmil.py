"""ABMIL: attention pooling (Ilse et al., "Attention-based deep multiple instance learning", ICML 2018).

h_m = dropout(relu(W x_m + b))
a   = softmax_m(w^T tanh(V h_m))                          eq. 8
a   = softmax_m(w^T (tanh(V h_m) * sigmoid(U h_m)))       eq. 9, ``gated``
z   = sum_m a_m h_m                                       eq. 7
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from comel.models.base import MAX_WIDTH
from comel.models.heads import Embedding, EmbeddingOptions, HeadedModel, PooledTrunk
from comel.nn.poolings.attention import AttentionPooling
from comel.nn.poolings.gated import GatedAttention

__all__ = ["ABMIL", "ABMILOptions"]


class ABMILOptions(EmbeddingOptions):
    """Settings of the model."""

    attention_hidden: int = Field(128, ge=1, le=MAX_WIDTH, description="hidden width of the attention")
    gated: bool = Field(False, description="gated attention")


class ABMIL(HeadedModel):
    """See the module."""

    Options = ABMILOptions
    adapter_targets = ("embed", "v", "u")
    options: ABMILOptions

    def make_trunk(self) -> nn.Module:
        """Embedding and attention pooling."""
        options = self.options
        pool = (GatedAttention if options.gated else AttentionPooling)(options.dim, options.attention_hidden)
        return PooledTrunk(Embedding(self.dimension, options.dim, options.dropout), pool)
