"""The patch encoder interface: tiles in, feature vectors out, and a hash of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from comel.base.units import Precision
from comel.errors import ConfigError

__all__ = ["PatchEncoder", "resolve_precision", "scale_note"]

_SCALE_TOLERANCE = 0.1


class PatchEncoder(ABC):
    """A frozen network that turns tiles into feature vectors.

    Attributes:
        name: the name stored in bags.
        dimension: length of a feature vector.
        weights_hash: SHA-256 (hex) of the weights.
        recipe: in words, how a tile becomes the network's input and the network's output a vector; changing it changes
            the features.
        input_size: side in pixels of the network's input.
        device: the torch device it runs on.
        mpp: micrometres per pixel of the tiles it is meant for; empty if it has no scale of its own.
        precision: the number type it computes in; "own" if the encoder decides for itself.
        code_sha256: SHA-256 of its code file, if it is a user's own.
        concurrent: whether :meth:`encode` may run in several threads at once, and does best with one thread each.
    """

    name: str
    dimension: int
    weights_hash: str
    recipe: str
    input_size: int
    device: str
    mpp: tuple[float, ...] = ()
    precision: str = "float32"
    code_sha256: str | None = None
    concurrent: bool = False

    @abstractmethod
    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Encode tiles (B, H, W, 3) uint8 RGB to features (B, dimension) float32."""

    def start(self, tiles: np.ndarray) -> Callable[[], np.ndarray]:
        """Start to :meth:`encode`; the returned function waits for the features and returns them.

        A separate device computes meanwhile, if there is one; otherwise everything is done before this returns.
        """
        features = self.encode(tiles)
        return lambda: features


def resolve_precision(precision: Precision, device: str) -> str:
    """``auto`` as bfloat16 on a CUDA device that computes in it, float16 on an older one, and float32 elsewhere.

    Raises:
        ConfigError: the device cannot compute in it.
    """
    kind = device.partition(":")[0]
    if precision == "auto":
        if kind != "cuda":
            return "float32"
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if precision == "float16" and kind == "cpu":
        raise ConfigError("precision float16 needs a CUDA device", "choose auto, float32 or bfloat16")
    return precision


def scale_note(encoder: PatchEncoder, *scales: float) -> str | None:
    """One line for the user if tiles' um/px are more than 10 % off every resolution the encoder is meant for."""
    off = [scale for scale in scales if all(abs(scale / mpp - 1) > _SCALE_TOLERANCE + 1e-9 for mpp in encoder.mpp)]
    if not encoder.mpp or not off:
        return None
    meant = " or ".join(f"{mpp:g}" for mpp in encoder.mpp)
    which = "these" if len(scales) == 1 else "some"
    return f"{encoder.name} is meant for tiles at {meant} um/px, {which} are at {' and '.join(f'{mpp:g}' for mpp in off)} um/px"
