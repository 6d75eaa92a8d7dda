"""What a patch encoder is: tiles in, feature vectors out, and a hash that says which weights made them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from comel.errors import ConfigError

__all__ = ["PatchEncoder", "resolve_device", "scale_note"]

_SCALE_TOLERANCE = 0.1


class PatchEncoder(ABC):
    """A frozen network that turns tiles into feature vectors.

    Attributes:
        name: the name that stands in the bags.
        dimension: length of a feature vector.
        weights_hash: SHA-256 (hex) of the weights.
        recipe: in words, how a tile becomes the network's input and the network's output a vector; a change of it changes
            the features.
        input_size: side in pixels of the network's input.
        device: the torch device it runs on.
        mpp: micrometres per pixel of the tiles it is meant for; empty where it has no scale of its own.
    """

    name: str
    dimension: int
    weights_hash: str
    recipe: str
    input_size: int
    device: str
    mpp: tuple[float, ...] = ()

    @abstractmethod
    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Encode tiles (B, H, W, 3) uint8 RGB to features (B, dimension) float32."""


def resolve_device(device: str) -> str:
    """``auto`` as ``cuda`` where there is one, else ``cpu``; any other name as torch knows it.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"no device '{device}'", "choose auto, cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}': torch finds no CUDA device", "choose auto or cpu")
    return device


def scale_note(encoder: PatchEncoder, target_mpp: float) -> str | None:
    """One line for the user where ``target_mpp`` is more than 10 % from every resolution the encoder is meant for."""
    if not encoder.mpp or any(abs(target_mpp / mpp - 1) <= _SCALE_TOLERANCE + 1e-9 for mpp in encoder.mpp):
        return None
    meant = " or ".join(f"{mpp:g}" for mpp in encoder.mpp)
    return f"{encoder.name} is meant for tiles at {meant} um/px, these are at {target_mpp:g} um/px"
