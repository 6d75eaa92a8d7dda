"""A continual learning strategy of your own: hold the network near the weights that the last task left.

    comel train --manifest practice/manifest.csv --bags practice/bags --strategy own_strategy.py:StayNear --out runs/near

The loss gains the squared distance of the trunk from where the task found it (Li et al., "Explicit inductive bias for transfer
learning with convolutional networks", ICML 2018, there called L2-SP):

    (strength / 2) sum_w |w - w_before|^2,    from the second task on.

The trainer calls the hooks of ``comel.strategies.base.Strategy``; what is not overridden keeps its default.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.base import Stage, StageBags, Strategy

ANCHOR = "anchor.safetensors"


class StayNearOptions(BaseModel):
    """What a user may set under ``strategy.``; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid")

    strength: float = Field(0.1, ge=0, description="weight of the distance; 0 is plain fine-tuning")


class StayNear(Strategy):
    """See the module."""

    Options = StayNearOptions
    options: StayNearOptions

    def __init__(self, options: StayNearOptions | None = None) -> None:
        super().__init__(options)
        self.anchor: dict[str, Tensor] = {}

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Keep the trunk as it is before the task; the first task starts from random weights, which hold nothing."""
        trained = model.trunk.named_parameters() if stage.index else ()
        self.anchor = {name: weights.detach().clone() for name, weights in trained}

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's own terms and ``near``; terms are summed, and each is logged under its name."""
        terms = model.loss(output, labels)
        if self.anchor:
            moved = [
                (weights - self.anchor[name].to(weights)).square().sum() for name, weights in model.trunk.named_parameters()
            ]
            terms["near"] = self.options.strength / 2 * torch.stack(moved).sum()
        return terms

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """The next task makes an anchor of its own."""
        self.anchor = {}

    def save(self, model: MILModel, folder: Path) -> None:
        """Inside a task the anchor belongs to the checkpoint: training that was killed goes on with it."""
        if self.anchor:
            save_file({name: weights.cpu().contiguous() for name, weights in self.anchor.items()}, folder / ANCHOR)

    def load(self, model: MILModel, folder: Path) -> None:
        """The inverse of ``save``."""
        self.anchor = load_file(folder / ANCHOR) if (folder / ANCHOR).exists() else {}
