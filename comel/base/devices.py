"""The device to compute on, and the GPUs assigned to child processes. torch is imported only when needed."""

from __future__ import annotations

import os
from collections.abc import Mapping

from comel.errors import ConfigError

__all__ = ["GPUS_VARIABLE", "gpu_names", "resolve_device"]

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that says which GPUs a process sees."""


def resolve_device(name: str, setting: str = "device") -> str:
    """The name of an available torch device: ``auto`` is ``cuda`` if there is one, else ``cpu``.

    Args:
        name: auto, cpu, cuda or cuda:N.
        setting: the setting's name, for messages.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "cpu":
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{setting}: no device '{name}'", "give auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(f"{setting}: no '{name}': torch finds no CUDA device", "give auto or cpu")
    if device.index is not None and device.index >= (count := torch.cuda.device_count()):
        devices = f"{count} CUDA device{'s' * (count > 1)}"
        raise ConfigError(f"{setting}: no '{name}': this machine has {devices}", "they count from cuda:0")
    return name


def gpu_names(count: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The names for :data:`GPUS_VARIABLE` in child processes, one for each of the ``count`` GPUs that this process sees."""
    names = [name for name in environment.get(GPUS_VARIABLE, "").split(",") if name]
    return names or [str(number) for number in range(count)]
