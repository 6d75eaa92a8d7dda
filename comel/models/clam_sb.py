"""CLAM with a single attention branch (Lu et al., Nature Biomedical Engineering 2021): gated attention for all classes.

    h_m = dropout(relu(W x_m + b))
    a   = softmax_m(w^T (tanh(V h_m) * sigmoid(U h_m))),  z = sum_m a_m h_m,  logits = head(z)

The clustering of instances is that of :mod:`comel.models.clam`.
"""

from __future__ import annotations

from torch import Tensor, nn

from comel.models.base import BagOutput
from comel.models.clam import CLAM, CLAMHead
from comel.models.heads import Embedding, PooledTrunk
from comel.nn.poolings.gated import GatedAttention

__all__ = ["CLAMSingleBranch"]


class CLAMSingleBranch(CLAM):
    """See the module."""

    def make_trunk(self) -> nn.Module:
        """Embedding and gated attention."""
        dim, dropout = self.options.dim, self.options.dropout
        return PooledTrunk(Embedding(self.dimension, dim, dropout), GatedAttention(dim, self.options.attention_hidden, dropout))

    def make_head(self, labels: int) -> nn.Module:
        """See :class:`comel.models.clam.CLAMHead`."""
        return CLAMHead(self.options.dim, labels)

    def class_attention(self, output: BagOutput) -> Tensor:
        """The one attention, for every class."""
        return output.attention.unsqueeze(-1).expand(-1, -1, len(self.classes))
