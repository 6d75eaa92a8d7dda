"""The weights of a version and the state of its strategy, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.base.files import atomic_path, is_plain
from comel.base.registry import is_user_code
from comel.base.text import first_line
from comel.cohort.classes import Head
from comel.errors import ComelError, RunError

if TYPE_CHECKING:
    from torch import Tensor

    from comel.base.trust import Trust
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = ["build_model", "load_model", "load_state", "save_state"]

_WEIGHTS = "model.safetensors"
_REMEDY = "restore the run from a copy"
_KINDS: dict[bool | str, tuple[str, ...]] = {
    True: ("F64", "F32", "F16", "BF16"),
    "torch.int64": ("I64", "I32"),
    "torch.bool": ("BOOL",),
}
"""safetensors' names of the types that a tensor may have in a file, by whether it is a float here, or by its type."""


def save_state(folder: Path, model: MILModel, strategy: Strategy) -> None:
    """Write ``model.safetensors`` with adapters merged, and beside it what the strategy needs to continue."""
    from safetensors.torch import save_file

    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("trunk.")}
    state |= {f"trunk.{name}": tensor for name, tensor in strategy.merged_trunk(model).items()}
    with atomic_path(folder / _WEIGHTS) as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)
    strategy.save(model, folder)


def build_model(model: Mapping[str, Any], trust: Trust | None = None) -> MILModel:
    """An untrained model from ``model.json``'s description (name, dimension, options, heads).

    Args:
        model: the description.
        trust: the user's own code that may be loaded; by default none.

    Raises:
        ConfigError: there is no such model, or its code file is not trusted.
        RunError: it is not a model, or does not have such options.
    """
    from pydantic import ValidationError

    from comel.models import model_class
    from comel.models.base import MILModel

    name = model["name"]
    kind: Any = model_class(name, trust, sha256=model.get("code_sha256"), note_unchecked=True)
    if not (isinstance(kind, type) and issubclass(kind, MILModel)):
        raise RunError(f"'{name}' is not a model", _REMEDY)
    try:
        options = kind.Options.model_validate({**kind.Options.earlier, **model["options"]})
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        raise RunError(f"not settings of the model '{name}': {what}", _REMEDY) from None
    make: Any = kind
    made: MILModel = make(model["dimension"], options, heads=[Head.from_dict(head) for head in model["heads"]])
    return made


def load_model(
    folder: Path, model: Mapping[str, Any], strategy: Strategy | None = None, *, trust: Trust | None = None
) -> MILModel:
    """The model of a version or a checkpoint with its weights, on the CPU.

    The tensors that the file declares are compared with the description before any memory is allocated.

    Args:
        folder: the folder that :func:`save_state` wrote to.
        model: see :func:`build_model`.
        strategy: its state is loaded too; see :func:`load_state`.
        trust: see :func:`build_model`.

    Raises:
        RunError: the weights or the strategy's state are damaged or do not fit the description.
        ConfigError: see :func:`build_model`.
    """
    import torch

    try:
        with torch.device("meta"):
            expected = build_model(model, trust).state_dict()
    except ComelError as error:
        raise type(error)(f"{folder}: {error.what}", error.remedy) from None
    except Exception as error:  # a user's own class may raise anything
        if not is_user_code(model["name"]):
            raise RunError(f"{folder}: no model can be made from these settings ({first_line(error)})", _REMEDY) from None
    else:
        _check_header(folder / _WEIGHTS, expected)
    made = build_model(model, trust)
    load_state(folder, made, strategy)
    return made


def load_state(folder: Path, model: MILModel, strategy: Strategy | None = None) -> None:
    """Read what :func:`save_state` wrote; without a strategy, only the merged weights, which is all inference needs.

    Raises:
        RunError: the weights or the strategy's state are damaged or do not fit the model.
    """
    from comel.strategies.persistence import read_tensors

    path = folder / _WEIGHTS
    _check_header(path, model.state_dict())
    state = read_tensors(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)})", _REMEDY) from None
    if not bool((model.temperature > 0).all()):
        raise RunError(f"{path}: a temperature is not above 0", _REMEDY)
    if strategy is None:
        return
    try:
        strategy.load(model, folder)
    except (ComelError, OSError):
        raise
    except Exception as error:  # a strategy, also a user's own, may raise anything on a damaged state
        raise RunError(
            f"{folder}: the state of strategy '{type(strategy).__name__}' is damaged ({first_line(error)})", _REMEDY
        ) from error


def _check_header(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Compare the names, shapes and types of a file's tensors with the expected ones; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    if not is_plain(path):
        raise RunError(f"{path}: no such file", _REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            stored = {name: (list(one.get_shape()), str(one.get_dtype())) for name, one in slices.items()}
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)})", _REMEDY) from None
    missing, foreign = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or foreign:
        wrong = f"lacks '{missing[0]}'" if missing else f"has '{foreign[0]}', which the model does not have"
        raise RunError(f"{path}: does not fit the model: {wrong}", _REMEDY)
    for name, tensor in sorted(expected.items()):
        shape, kind = stored[name]
        if shape != list(tensor.shape):
            wrong = f"'{name}' is {shape} and should be {list(tensor.shape)}"
            raise RunError(f"{path}: does not fit the model: {wrong}", _REMEDY)
        if kind not in _KINDS.get(tensor.dtype.is_floating_point or str(tensor.dtype), ()):
            raise RunError(f"{path}: does not fit the model: '{name}' has number type {kind}", _REMEDY)
