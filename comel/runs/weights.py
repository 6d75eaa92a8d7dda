"""The weights of a version and the state of its strategy, as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.base.files import atomic_path
from comel.base.text import first_line
from comel.cohort.classes import Head
from comel.errors import RunError

if TYPE_CHECKING:
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = ["build_model", "load_state", "save_state"]


def save_state(folder: Path, model: MILModel, strategy: Strategy) -> None:
    """Write ``model.safetensors``, adapters merged, and beside it what the strategy needs to go on."""
    from safetensors.torch import save_file

    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("trunk.")}
    state |= {f"trunk.{name}": tensor for name, tensor in strategy.merged_trunk(model).items()}
    with atomic_path(folder / "model.safetensors") as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)
    strategy.save(model, folder)


def build_model(model: dict[str, Any]) -> MILModel:
    """An untrained model from ``model.json``'s description (name, dimension, options, heads)."""
    from comel.models import model_class

    kind = model_class(model["name"])
    options = kind.Options.model_validate(model["options"])
    untrained: MILModel = kind(model["dimension"], options, heads=[Head.from_dict(head) for head in model["heads"]])
    return untrained


def load_state(folder: Path, model: MILModel, strategy: Strategy | None = None) -> None:
    """Read what :func:`save_state` wrote; without a strategy the merged weights alone, which is all inference needs.

    Raises:
        RunError: the weights are damaged or do not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)})", "restore the run from a copy") from None
    if strategy is not None:
        strategy.load(model, folder)
