"""OWLoRA: the first task trains the network; each later one trains an adapter in directions no earlier task uses.

After the first task the trunk's weights, biases, norms and pooling vector are frozen. A later task adds
``dW_t = B_t diag(s_t) A_t`` to each linear layer, with A and B orthonormal and outside the protected subspaces, put back there
after every optimizer step. Two protected bases: ``weights`` and ``features`` (:class:`comel.owlora.OWLoraConfig`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from comel.base.files import write_json
from comel.cohort.tasks import TaskData
from comel.errors import CapacityError
from comel.models.base import MAX_WIDTH, MILModel
from comel.strategies.adapter import check_declared, check_stage, require_targets
from comel.strategies.base import Stage, StageBags, Strategy, train_heads, unfreeze
from comel.strategies.linears import adapted_linears, input_grams
from comel.strategies.persistence import read_state, read_tensors, write_tensors
from comel.strategies.wrapped import load_adapter, load_base, merged_weights, save_wrapped

__all__ = ["OWLora", "OWLoraOptions"]

_LOW_ON_ROOM = 2


class OWLoraOptions(BaseModel):
    """Settings of the strategy."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rank: int = Field(16, ge=1, le=MAX_WIDTH, description="new directions per task in each layer")
    basis: Literal["features", "weights"] = Field("features", description="what is protected")
    energy: float = Field(0.99, gt=0, le=1, description="share of the old inputs (or of W0) that is protected")
    tasks: int = Field(8, ge=2, le=1000, description="declared number of tasks that space is reserved for")
    direction_lr: float = Field(5.0, gt=0, description="learning rate of the directions A and B, as a multiple of trainer.lr")
    scale_lr: float = Field(30.0, gt=0, description="learning rate of the weights s, as a multiple of trainer.lr")


class OWLora(Strategy):
    """See the module. State: one input basis per layer (``features``), and the adapters in PEFT's own layout."""

    Options = OWLoraOptions
    options: OWLoraOptions

    def __init__(self, options: OWLoraOptions | None = None) -> None:
        super().__init__(options)
        self.adapters: list[str] = []
        self.bases: dict[str, Tensor] = {}
        self._out_features: dict[str, int] = {}
        self._peft: Any = None

    def stream(self, tasks: Sequence[TaskData]) -> Iterable[tuple[TaskData, ...]]:
        """The tasks one by one.

        Raises:
            CapacityError: there are more than declared.
        """
        check_declared(tasks, self.options.tasks)
        return super().stream(tasks)

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """From the second stage on: check that there is room, and put a new adapter into every layer."""
        if stage.index == 0:
            require_targets(model, "owlora")
            self._check_declared(model)
            return
        check_stage(stage, self.options.tasks)
        self._attach(model, f"{stage.index + 1:03d}-{_slug(stage.tasks[0].name)}")
        if self.options.basis == "features":
            self._peft.base_model.protect(self.bases, self.adapters[-1])

    def parameters(self, model: MILModel, stage: Stage) -> list[dict[str, Any]]:
        """The whole trunk in the first stage, then the newest adapter; always the stage's own heads."""
        heads = train_heads(model, stage.heads)
        if not self.adapters:
            return [{"params": unfreeze(model.trunk.parameters())}, heads]
        newest = {name: p for name, p in model.trunk.named_parameters() if name.endswith(f".{self.adapters[-1]}")}
        weights = [p for name, p in newest.items() if ".owlora_s." in name]
        directions = [p for name, p in newest.items() if ".owlora_s." not in name]
        return [
            {"params": unfreeze(directions), "lr_scale": self.options.direction_lr},
            {"params": unfreeze(weights), "lr_scale": self.options.scale_lr},
            heads,
        ]

    def after_step(self, model: MILModel) -> None:
        """Put the newest adapter back, orthonormal, into the free space."""
        if self.adapters:
            self._peft.base_model.retract(self.adapters[-1])

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Protect the leading directions of every layer's inputs over this stage's bags."""
        if self.options.basis == "features":
            self._extend_bases(model, stage, bags)
            if self._peft is not None:
                self._peft.base_model.protect(self.bases)

    def report(self) -> dict[str, Any]:
        """Directions per layer: all, protected, free, and the number of further adapters that fit."""
        layers = self.capacity()
        if not layers:
            return {}
        fits = min(layer["adapters_left"] for layer in layers.values())
        report: dict[str, Any] = {"capacity": layers, "adapters_left": fits}
        if fits < _LOW_ON_ROOM:
            report["warning"] = f"room for {fits} more adapters of rank {self.options.rank} in the tightest layer"
        return report

    def capacity(self) -> dict[str, dict[str, int]]:
        """Per adapted layer: ``in``, ``protected`` (bases and adapters), ``free``, ``adapters_left``."""
        rank = self.options.rank
        if self._peft is not None:
            table = self._peft.base_model.capacity()
        else:
            table = {
                name: {
                    "in": len(basis),
                    "protected": basis.shape[1],
                    "free": len(basis) - basis.shape[1],
                    "free_out": self._out_features[name],
                }
                for name, basis in self.bases.items()
            }
        declared = self.options.tasks - 1 - len(self.adapters)
        return {
            name: {**layer, "adapters_left": min(min(layer["free"], layer["free_out"]) // rank, declared)}
            for name, layer in table.items()
        }

    def merged_trunk(self, model: MILModel) -> dict[str, Tensor]:
        """Base weights plus all adapters, under a plain trunk's names."""
        return merged_weights(model, self._peft)

    def save(self, model: MILModel, folder: Path) -> None:
        """``base.safetensors``, ``adapters/<name>/`` as PEFT writes them, ``bases.safetensors``, ``strategy.json``."""
        if self.bases:
            write_tensors(folder / "bases.safetensors", self.bases)
        save_wrapped(model, self._peft, folder)
        write_json(folder / "strategy.json", {"adapters": self.adapters})

    def load(self, model: MILModel, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        self.adapters, self._peft = [], None
        self._out_features = {name: layer.out_features for name, layer in adapted_linears(model).items()}
        if (folder / "bases.safetensors").exists():
            self.bases = read_tensors(folder / "bases.safetensors")
        names = read_state(folder / "strategy.json")["adapters"]
        if names:
            load_base(model, folder)
        for name in names:
            self._attach(model, name)
            load_adapter(self._peft, folder, name)
        if names and self.options.basis == "features":
            self._peft.base_model.protect(self.bases)

    def _attach(self, model: MILModel, name: str) -> None:
        """Put an adapter into the trunk and let all adapters be active."""
        from peft import get_peft_model

        from comel.owlora import OWLoraConfig

        config = OWLoraConfig(
            r=self.options.rank,
            target_modules=list(model.adapter_targets),
            basis=self.options.basis,
            energy=self.options.energy,
            tasks=self.options.tasks - 1,
        )
        if self._peft is None:
            self._peft = get_peft_model(model.trunk, config, adapter_name=name)
        else:
            self._peft.add_adapter(name, config)
        self.adapters.append(name)
        self._peft.base_model.set_adapter(self.adapters)

    def _extend_bases(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        from comel.owlora import subspace

        layers = adapted_linears(model)
        self._out_features = {name: layer.out_features for name, layer in layers.items()}
        grams = input_grams(model, layers, bags)
        later = self.options.tasks - 1 - stage.index
        for name, gram in grams.items():
            held = self.bases.get(name, subspace.empty_basis(len(gram)))
            if self._peft is not None:
                layer = dict(self._peft.base_model.adapted_layers())[name]
                held = subspace.extend(held, layer.owlora_A[self.adapters[-1]].detach().T.cpu())
            limit = len(gram) - held.shape[1] - later * self.options.rank
            new = subspace.gram_basis(gram, held, self.options.energy, limit)
            self.bases[name] = subspace.extend(held, new)

    def _check_declared(self, model: MILModel) -> None:
        for name, layer in adapted_linears(model).items():
            narrow, later = min(layer.in_features, layer.out_features), self.options.tasks - 1
            if later * self.options.rank > narrow:
                of_features = narrow == model.dimension
                why = ", the length of the features" if of_features else ""
                raise CapacityError(
                    f"{name} has {narrow} directions{why}, too few for {later} adapters of rank {self.options.rank}",
                    f"set strategy.rank={max(1, narrow // later)}, or fewer strategy.tasks"
                    + ("" if of_features else ", or widen model.dim"),
                )


def _slug(name: str) -> str:
    """A task's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "task"
