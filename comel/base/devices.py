"""The device that computes."""

from __future__ import annotations

import torch

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; a number names one of several CUDA devices.

    Raises:
        ConfigError: there is no such device here.
    """
    from comel.errors import ConfigError

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.device: no device '{name}'", "say auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device: no CUDA device is available", "say --set trainer.device=cpu")
    if device.index is not None and device.type == "cuda" and device.index >= (count := torch.cuda.device_count()):
        raise ConfigError(f"trainer.device: no '{name}': this machine has {count} CUDA devices", "they count from cuda:0")
    return device
