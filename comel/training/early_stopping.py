"""Early stopping: end a stage when the validation loss has not fallen for a while, and restore the best weights.

The validation cases are those of the stage's own tasks; no test case and no other task's case is used. The learning rate
follows its cosine over all requested epochs, whether or not the stage ends earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from comel.base.files import atomic_path
from comel.base.text import first_line
from comel.errors import BagError, RunError
from comel.models.base import BagBatch, MILModel, cross_entropy

__all__ = ["EarlyStopping", "validation_loss"]


@torch.no_grad()
def validation_loss(model: MILModel, bags: Iterable[tuple[BagBatch, int]]) -> float:
    """The mean cross-entropy of bags over the columns of their own heads, in evaluation mode.

    Raises:
        BagError: there are no bags.
    """
    model.eval()
    losses = [cross_entropy(model, model(batch).head_logits[0], column, "task")[0].item() for batch, column in bags]
    if not losses:
        raise BagError(
            "early stopping: no validation case of the stage has instances",
            "mark other cases with split 'val', or leave trainer.early_stopping out",
        )
    return sum(losses) / len(losses)


class EarlyStopping:
    """Monitors one stage.

    Args:
        patience: epochs without a lower loss after which the stage ends.
        bags: returns the stage's validation bags at each call.
    """

    def __init__(self, patience: int, bags: Callable[[], Iterable[tuple[BagBatch, int]]]) -> None:
        self.patience = patience
        self._bags = bags
        self.best_loss, self.best_epoch, self.epoch = math.inf, -1, -1
        self._best: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether the stage has waited long enough."""
        return self.epoch - max(self.best_epoch, 0) >= self.patience

    def observe(self, model: MILModel, epoch: int) -> float:
        """Record the model after an epoch; returns its validation loss."""
        loss = validation_loss(model, self._bags())
        self.epoch = epoch
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self._best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return loss

    def restore(self, model: MILModel) -> None:
        """Restore the model's best weights."""
        if self._best:
            model.load_state_dict(self._best)

    def save(self, path: Path) -> None:
        """Write the best weights and the counters as safetensors."""
        from safetensors.torch import save_file

        counters = {"best_loss": repr(self.best_loss), "best_epoch": str(self.best_epoch), "epoch": str(self.epoch)}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._best.items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=counters)

    def load(self, path: Path) -> None:
        """The inverse of :meth:`save`.

        Raises:
            RunError: the file is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                counters = file.metadata() or {}
                best = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            best_loss, best_epoch, epoch = float(counters["best_loss"]), int(counters["best_epoch"]), int(counters["epoch"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({first_line(error)})", "restore the run from a copy") from None
        self.best_loss, self.best_epoch, self.epoch, self._best = best_loss, best_epoch, epoch, best
