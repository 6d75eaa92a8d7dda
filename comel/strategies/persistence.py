"""A strategy's state in a version's folder: tensors as safetensors, numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from comel.base.files import atomic_path, is_plain, read_json
from comel.base.text import first_line
from comel.errors import RunError

__all__ = ["read_state", "read_tensors", "write_tensors"]

_REMEDY = "restore the run from a copy"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name; they must not share memory."""
    from safetensors.torch import save_file

    with atomic_path(path) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The inverse of :func:`write_tensors`, on the CPU.

    Raises:
        RunError: the file is missing or damaged, or a number in it is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if not is_plain(path):
            raise FileNotFoundError("no such file")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)})", _REMEDY) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise RunError(f"{path}: '{name}' contains NaN or infinity", _REMEDY)
    return tensors


def read_state(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        state = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)})", _REMEDY) from None
    if not isinstance(state, dict):
        raise RunError(f"{path}: not the state of a strategy", _REMEDY)
    return state
