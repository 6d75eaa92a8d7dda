"""The base of the LoRA strategies: one adapter per task, trained on a frozen trunk and merged when the task is learned.

The first task trains the network, as under every strategy here. From the second on each linear layer named by the model's
``adapter_targets`` computes ``W x + b + B A x`` (Hu et al. 2022, arXiv 2106.09685, equation 3, with alpha = rank, hence scale
1), A (rank, in), B (out, rank), B = 0 at the start. Merging leaves a plain trunk, so inference costs nothing extra and the
next adapter starts from everything before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from comel.base.files import write_json
from comel.cohort.tasks import TaskData
from comel.errors import CapacityError, ConfigError
from comel.models.base import MAX_WIDTH, MILModel
from comel.strategies.base import Stage, StageBags, Strategy, train_heads, unfreeze
from comel.strategies.linears import adapted_linears
from comel.strategies.persistence import read_state
from comel.strategies.wrapped import load_adapter, load_base, merged_weights, save_wrapped

__all__ = ["AdapterOptions", "MergedAdapter", "check_declared", "check_stage", "require_targets"]


class AdapterOptions(BaseModel):
    """Settings of a strategy that trains one LoRA adapter per task."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rank: int = Field(16, ge=1, le=MAX_WIDTH, description="rank of the adapter in each layer")
    adapter_lr: float = Field(5.0, gt=0, description="learning rate of the adapter, as a multiple of trainer.lr")


class MergedAdapter(Strategy):
    """See the module. State: inside a stage the base weights and the adapter in PEFT's own layout; after it nothing.

    Attributes:
        name: the strategy's name in settings and messages.
        trained: the adapter's trained matrices, by PEFT's names.
        adapter: the name of the adapter in training, or None between stages and in the first.
    """

    Options = AdapterOptions
    name: ClassVar[str]
    trained: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")
    options: AdapterOptions

    def __init__(self, options: AdapterOptions | None = None) -> None:
        super().__init__(options)
        self.adapter: str | None = None
        self._peft: Any = None

    def before_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """From the second stage on, put a fresh adapter into every layer.

        Raises:
            ConfigError: the model does not name layers for adapters.
        """
        require_targets(model, self.name)
        if stage.index > 0:
            self._attach(model, f"{stage.index + 1:03d}")

    def parameters(self, model: MILModel, stage: Stage) -> list[dict[str, Any]]:
        """The whole trunk in the first stage, then the adapter; always the stage's own heads."""
        heads = train_heads(model, stage.heads)
        if self.adapter is None:
            return [{"params": unfreeze(model.trunk.parameters())}, heads]
        endings = tuple(f".{matrix}.{self.adapter}.weight" for matrix in self.trained)
        adapter = [parameter for name, parameter in model.trunk.named_parameters() if name.endswith(endings)]
        return [{"params": unfreeze(adapter), "lr_scale": self.options.adapter_lr}, heads]

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Merge the adapter into the trunk, which is a plain network again."""
        if self._peft is not None:
            self._peft.merge_and_unload()
            self.adapter, self._peft = None, None

    def merged_trunk(self, model: MILModel) -> dict[str, Tensor]:
        """The trunk's weights with the adapter added in, under a plain trunk's names."""
        return merged_weights(model, self._peft)

    def save(self, model: MILModel, folder: Path) -> None:
        """``strategy.json``, and inside a stage ``base.safetensors`` and ``adapters/<name>/`` as PEFT writes it."""
        save_wrapped(model, self._peft, folder)
        write_json(folder / "strategy.json", {"adapter": self.adapter})

    def load(self, model: MILModel, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        name = read_state(folder / "strategy.json")["adapter"]
        if name is not None:
            load_base(model, folder)
            self._attach(model, name)
            load_adapter(self._peft, folder, name)

    def _attach(self, model: MILModel, name: str) -> None:
        from peft import LoraConfig, get_peft_model

        rank = self.options.rank
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(model.adapter_targets))
        self._peft = get_peft_model(model.trunk, config, adapter_name=name)
        self.adapter = name


def check_declared(tasks: Sequence[TaskData], declared: int) -> None:
    """Refuse a stream of more tasks than ``strategy.tasks`` declares, before anything is trained.

    Raises:
        CapacityError: there are too many tasks.
    """
    if len(tasks) > declared:
        raise CapacityError(
            f"the stream has {len(tasks)} tasks, and strategy.tasks declares {declared}",
            f"set strategy.tasks={len(tasks)} or more",
        )


def check_stage(stage: Stage, declared: int) -> None:
    """Refuse a stage beyond the declared tasks, which ``comel add-task`` may request.

    Raises:
        CapacityError: the stage is beyond them.
    """
    if stage.index >= declared:
        raise CapacityError(
            f"stage {stage.index + 1} is beyond the {declared} tasks that strategy.tasks declared",
            "train a new run with a larger strategy.tasks",
        )


def require_targets(model: MILModel, strategy: str) -> None:
    """Refuse a model without linear layers for adapters.

    Raises:
        ConfigError: its ``adapter_targets`` name no linear layer of its trunk.
    """
    if not adapted_linears(model):
        raise ConfigError(
            f"strategy '{strategy}' adapts linear layers, but the model {type(model).__name__} names none (adapter_targets)",
            "choose a strategy without adapters, such as finetune, or another model",
        )
