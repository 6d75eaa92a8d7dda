"""Experience replay: each step learns from a new bag and a stored one.

Chaudhry et al. (2019, arXiv 1902.10486), with a reservoir of whole bags (:mod:`comel.strategies.rehearsal`).
"""

from __future__ import annotations

from torch import Tensor

from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.rehearsal import Rehearsal, of_stored

__all__ = ["ER"]


class ER(Rehearsal):
    """The model's whole loss on the new bag and, with the same weight, on one stored bag."""

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms, and from the second task on those of a stored bag as ``stored_*``."""
        terms = super().loss(model, bags, output, labels)
        for _, again, label in self.replay(model):
            terms |= of_stored(model.loss(again, label))
        return terms
