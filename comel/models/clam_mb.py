"""CLAM with one attention branch per class (Lu et al., Nature Biomedical Engineering 2021).

    h_m = dropout(relu(W x_m + b)),  g_m = tanh(V h_m) * sigmoid(U h_m)
    a_c = softmax_m(w_c^T g_m),  z_c = sum_m a_cm h_m,  logit_c = v_c^T z_c + b_c

W, V and U are shared; the branches w_c and the classifiers v_c, b_c belong to the class's task. The clustering of instances
is that of :mod:`comel.models.clam`, each class by its own branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comel.models.base import BagBatch, BagOutput, as_batch
from comel.models.clam import CLAM, CLAMHead, CLAMOptions
from comel.models.heads import UNSCORED, Embedding
from comel.models.scores import shown_by_attention
from comel.nn.masked import masked_softmax
from comel.nn.poolings.gated import GatedUnits

__all__ = ["BranchOutput", "CLAMMultiBranch"]


@dataclass(frozen=True)
class BranchOutput(BagOutput):
    """With the attention of every class, ``branches`` (B, M, C)."""

    branches: Tensor = UNSCORED


class MultiBranchTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim) and the branches' input (B, M, hidden)."""

    def __init__(self, dimension: int, options: CLAMOptions) -> None:
        super().__init__()
        self.embedding = Embedding(dimension, options.dim, options.dropout)
        self.units = GatedUnits(options.dim, options.attention_hidden, options.dropout)

    def forward(self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class."""
        h = self.embedding(features)
        return h, self.units(h)


class CLAMMultiBranch(CLAM):
    """See the module."""

    def make_trunk(self) -> nn.Module:
        """See :class:`MultiBranchTrunk`."""
        return MultiBranchTrunk(self.dimension, self.options)

    def make_head(self, labels: int) -> nn.Module:
        """See :class:`comel.models.clam.CLAMHead`; it holds the branches too."""
        return CLAMHead(self.options.dim, labels, self.options.attention_hidden)

    def forward(self, bags: BagBatch | Tensor) -> BranchOutput:
        """See :class:`comel.models.base.BagOutput`; ``attention`` and ``bag_features`` are the predicted class's."""
        bags = as_batch(bags)
        h, units = self.trunk(bags.features, bags.coords, bags.mask)
        branches = torch.cat([head.branches(units) for head in self.heads], dim=-1)  # type: ignore[operator]
        branches = masked_softmax(branches, bags.mask)  # (B, M, C)
        z = torch.einsum("bmc,bmd->bcd", branches, h)
        weight = torch.cat([head.bag.weight for head in self.heads])  # type: ignore[union-attr, misc]
        bias = torch.cat([head.bag.bias for head in self.heads])  # type: ignore[union-attr, misc]
        logits = torch.einsum("bcd,cd->bc", z, weight) + bias
        predicted = logits.argmax(dim=-1)
        each = torch.arange(len(h), device=h.device)
        attention = branches[each, :, predicted]
        output = BranchOutput(logits, attention, UNSCORED, z[each, predicted], h, logits, mask=bags.mask, branches=branches)
        return self.scored(output)

    def class_attention(self, output: BagOutput) -> Tensor:
        """Each class's own branch."""
        assert isinstance(output, BranchOutput)
        return output.branches

    def shown(self, output: BagOutput) -> Tensor:
        """Each class's own attention, scaled in the bag."""
        return shown_by_attention(self.class_attention(output), output.mask)
