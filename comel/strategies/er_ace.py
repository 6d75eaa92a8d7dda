"""ER-ACE, experience replay with an asymmetric cross-entropy: new bags leave the old classes' logits alone.

The new classes' first large gradients would push the old classes' logits down on every bag. So the cross-entropy of a new bag
runs over the columns of its own task, and that of a stored bag over all columns seen. Caccia et al. (2022, ICLR, section 4).
"""

from __future__ import annotations

from torch import Tensor

from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.rehearsal import Rehearsal, of_stored

__all__ = ["ERACE"]


class ERACE(Rehearsal):
    """See the module. The model's ``loss_over`` is ignored.

    The new bags' columns are those of the whole task: over the classes of one bag alone, as in a batch of one,
    the cross-entropy is 0.
    """

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms over the task's columns, and those of a stored bag over all seen as ``stored_*``."""
        terms = model.loss(output, labels, over="task")
        for _, again, label in self.replay(model):
            terms |= of_stored(model.loss(again, label, over="seen"))
        return terms
