"""InfLoRA: low-rank adapters that read only what earlier tasks do not (Liang and Li, CVPR 2024, arXiv 2404.00228).

In LoRA's notation (the paper's B_t is the down-projection A, its A_t the up-projection B):

- Training B alone is training W inside the span of A's rows (proposition 1), in ``W_t = W_{t-1} + B_t A_t`` (equation 1).
- With H_t the inputs of a layer over the new task's bags and M_t an orthonormal basis of the old tasks' inputs,
  ``H^ = H_t - M_t M_t^T H_t`` (equation 6); A's rows are its ``rank`` leading left singular directions (equation 8), found
  as eigenvectors of ``P G P`` with ``G = H_t H_t^T`` and ``P = I - M_t M_t^T``. A is fixed before training; B starts at 0.
- The bag's cross-entropy runs over the new task's columns only (equation 9).
- Afterwards the adapter is merged, and M grows by the leading directions of the task's inputs until it holds the share
  ``threshold + (1 - threshold) t / tasks`` of their energy, t = 0 for the first task (DualGPM, Liang and Li, CVPR 2023).

Differences: the first task trains the network, as under every strategy of this package, whereas the paper starts from
a pretrained one and an adapter. M itself is kept; DualGPM keeps its complement once that is smaller, which is the same space.
The energy is that of the inputs, as in DualGPM; the published code uses the squared spectrum of G, which protects less.
Singular directions of H^ that vanish are left out (zero rows in A): some of them lie inside M.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from comel.cohort.tasks import TaskData
from comel.errors import CapacityError
from comel.models.base import BagBatch, BagOutput, MILModel
from comel.strategies.adapter import AdapterOptions, MergedAdapter, check_declared, check_stage
from comel.strategies.base import Stage, StageBags
from comel.strategies.linears import adapted_linears, input_grams
from comel.strategies.persistence import read_tensors, write_tensors

__all__ = ["InfLora", "InfLoraOptions", "down_projection"]

# The second moments are summed in float32; a share of the inputs below this is rounding.
_ROUNDING = 1e-6


class InfLoraOptions(AdapterOptions):
    """Settings of the strategy."""

    threshold: float = Field(0.95, gt=0, lt=1, description="share of the first task's inputs that is protected; rises to 1")
    tasks: int = Field(8, ge=2, le=1000, description="declared number of tasks, over which the threshold rises")


class InfLora(MergedAdapter):
    """See the module. State: one basis of the old inputs per layer, ``memory.safetensors``; no bags."""

    Options = InfLoraOptions
    name = "inflora"
    trained = ("lora_B",)
    options: InfLoraOptions

    def __init__(self, options: InfLoraOptions | None = None) -> None:
        super().__init__(options)
        self.memory: dict[str, Tensor] = {}

    def stream(self, tasks: Sequence[TaskData]) -> Iterable[tuple[TaskData, ...]]:
        """The tasks one by one.

        Raises:
            CapacityError: there are more than declared.
        """
        check_declared(tasks, self.options.tasks)
        return super().stream(tasks)

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """From the second stage on, put an adapter into every layer and design its A from the stage's bags.

        Raises:
            ConfigError: the model does not name layers for adapters.
            CapacityError: more stages than declared, or the new bags' inputs lie entirely in the old tasks' space.
        """
        check_stage(stage, self.options.tasks)
        super().before_task(model, stage, bags)
        if self.adapter is not None:
            self._design(model, self.adapter, bags)

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms, the cross-entropy over the columns of the bag's own task."""
        return model.loss(output, labels, over="task")

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Merge the adapter, then extend each layer's memory by the stage's inputs."""
        from comel.owlora import subspace

        super().after_task(model, stage, bags)
        start = self.options.threshold
        energy = start + (1 - start) * stage.index / self.options.tasks
        for name, gram in input_grams(model, adapted_linears(model), bags).items():
            held = self.memory.get(name, subspace.empty_basis(len(gram)))
            self.memory[name] = subspace.extend(held, subspace.gram_basis(gram, held, energy, len(gram) - held.shape[1]))

    def report(self) -> dict[str, Any]:
        """Directions per layer on the input side: all, protected and free."""
        layers = {
            name: {"in": len(basis), "protected": basis.shape[1], "free": len(basis) - basis.shape[1]}
            for name, basis in self.memory.items()
        }
        return {"capacity": layers} if layers else {}

    def save(self, model: MILModel, folder: Path) -> None:
        """What every adapter strategy writes, and ``memory.safetensors``."""
        super().save(model, folder)
        if self.memory:
            write_tensors(folder / "memory.safetensors", self.memory)

    def load(self, model: MILModel, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        super().load(model, folder)
        path = folder / "memory.safetensors"
        self.memory = read_tensors(path) if path.exists() else {}

    def _design(self, model: MILModel, adapter: str, bags: StageBags) -> None:
        layers: dict[str, Any] = dict(adapted_linears(model))
        found = 0
        for name, gram in input_grams(model, layers, bags).items():
            down = layers[name].lora_A[adapter].weight
            rows = down_projection(gram, self.memory[name], self.options.rank)
            with torch.no_grad():
                down.zero_()
                down[: len(rows)] = rows.to(down)
            found += len(rows)
        if not found:
            raise CapacityError(
                "inflora: no layer's inputs over the new bags leave the space of the old tasks",
                "lower strategy.threshold or declare more strategy.tasks in a new run",
            )


def down_projection(gram: Tensor, memory: Tensor, rank: int) -> Tensor:
    """Rows of A: the leading directions of a layer's inputs that lie outside the old tasks' space.

    Args:
        gram: (in, in) second moment of the new inputs.
        memory: (in, k) orthonormal basis of the old ones.
        rank: at most this many rows.

    Returns:
        (r, in) orthonormal rows, float64; r < ``rank`` if the inputs have fewer directions outside.
    """
    from comel.owlora import subspace

    return subspace.gram_basis(gram, memory, 1 - _ROUNDING, rank).T
