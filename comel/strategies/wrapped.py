"""A trunk wrapped by PEFT: its weights without and with the adapters, and both in a folder."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from comel.models.base import MILModel
from comel.strategies.persistence import read_tensors, write_tensors

__all__ = ["load_adapter", "load_base", "merged_weights", "save_wrapped"]

_BASE, _ADAPTERS = "base.safetensors", "adapters"


def merged_weights(model: MILModel, peft: Any) -> dict[str, Tensor]:
    """The trunk's weights with all adapters added in, under a plain trunk's names; ``peft`` is None without adapters."""
    if peft is None:
        return model.trunk.state_dict()
    merged: dict[str, Tensor] = copy.deepcopy(peft).merge_and_unload().state_dict()
    return merged


def save_wrapped(model: MILModel, peft: Any, folder: Path) -> None:
    """Write ``base.safetensors``, the base weights, and ``adapters/<name>/`` as PEFT does; nothing without adapters."""
    if peft is None:
        return
    beneath = {
        k.replace(".base_layer.", "."): v for k, v in model.trunk.state_dict().items() if not re.search(r"\.(ow)?lora_", k)
    }
    write_tensors(folder / _BASE, beneath)
    peft.save_pretrained(str(folder / _ADAPTERS), safe_serialization=True)
    (folder / _ADAPTERS / "README.md").unlink(missing_ok=True)


def load_base(model: MILModel, folder: Path) -> None:
    """Read the base weights into a plain trunk.

    Raises:
        RunError: the file is missing or damaged.
    """
    model.trunk.load_state_dict(read_tensors(folder / _BASE))


def load_adapter(peft: Any, folder: Path, name: str) -> None:
    """Read one adapter, which must be attached already.

    Raises:
        RunError: the file is missing or damaged.
    """
    from peft.utils.save_and_load import set_peft_model_state_dict

    set_peft_model_state_dict(peft, read_tensors(folder / _ADAPTERS / name / "adapter_model.safetensors"), adapter_name=name)
