"""DER++, dark experience replay with labels: a stored bag keeps its label and its logits at the time.

    loss = new bag + beta * loss(stored bag) + alpha * mean_c (logits_c - stored logits_c)^2,

the mean over the columns that existed when the bag was stored. Buzzega et al. (2020, NeurIPS, eq. 6), which draws a stored bag
for each term; here both use the same bag, which costs one pass instead of two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.rehearsal import Rehearsal, RehearsalOptions, of_stored

__all__ = ["DERpp", "DERppOptions"]


class DERppOptions(RehearsalOptions):
    """Settings of the strategy."""

    alpha: float = Field(3.0, ge=0, description="weight of the squared difference to the stored logits")
    beta: float = Field(1.0, ge=0, description="weight of the stored bag's own loss")


class DERpp(Rehearsal):
    """See the module. The logits are the heads' own, without dropout, of the model that has just learned the bag's task."""

    Options = DERppOptions
    options: DERppOptions

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms, and from the second task on those of a stored bag as ``stored_*``."""
        terms = super().loss(model, bags, output, labels)
        for stored, again, label in self.replay(model):
            assert stored.logits is not None
            before = stored.logits.to(again.head_logits.device)
            now = again.head_logits[0, : len(before)].float()
            terms |= of_stored(model.loss(again, label), self.options.beta)
            terms |= of_stored({"logits": F.mse_loss(now, before)}, self.options.alpha)
        return terms

    def remembered(self, model: MILModel, bag: BagBatch) -> Tensor:
        """The heads' logits (C,) of a bag."""
        training = model.training
        model.eval()
        with torch.no_grad(), model.network():
            logits: Tensor = model(bag).head_logits[0]
        model.train(training)
        return logits
