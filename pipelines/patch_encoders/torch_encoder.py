"""Encoders that torch computes: mixed precision, a few tiles at a time on a CPU, and a GPU that need not wait.

The maps that a network makes of 32 tiles are larger than 32 MiB. For each of that size the C library asks the system for new
memory, which the system clears: up to half of the time on a CPU. A forward pass there takes as many tiles as 512 x 512
pixels hold, rounded down to a power of two: four of 224 px. ``benchmarks/encoder_slices.py`` measures other numbers. The number
depends on the encoder alone, not on the machine and not on time, so that a run which goes on elsewhere makes equal features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import torch

from comel.base.devices import resolve_device
from comel.base.units import Precision
from pipelines.patch_encoders.base import PatchEncoder, resolve_precision

__all__ = ["TorchEncoder", "tiles_at_once"]

_PIXELS_AT_ONCE = 512 * 512


def tiles_at_once(input_size: int) -> int:
    """How many tiles one forward pass on a CPU takes, for a network's input of this many pixels a side.

    A power of two, 1 at least.
    """
    fit = max(1, _PIXELS_AT_ONCE // max(1, input_size) ** 2)
    return 1 << (fit.bit_length() - 1)


class TorchEncoder(PatchEncoder):
    """Puts :meth:`inputs` on the device and :meth:`compute` in the chosen precision.

    On a GPU the copies there and back are of pinned memory and the work is queued: :meth:`start` returns at once. On a CPU a
    batch is computed a few tiles at a time, see :func:`tiles_at_once`.
    """

    def run_on(self, device: str, precision: Precision) -> None:
        """Choose device and precision.

        Raises:
            ConfigError: there is no such device, or it cannot compute in that precision.
        """
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.concurrent = self.device == "cpu"

    @abstractmethod
    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, dimension) of :meth:`inputs`, which are on the device."""

    def inputs(self, tiles: np.ndarray) -> Mapping[str, torch.Tensor]:
        """The data copied to the device: the tiles (B, H, W, 3) uint8 RGB unchanged."""
        return {"tiles": torch.from_numpy(np.ascontiguousarray(tiles))}

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Encode tiles (B, H, W, 3) uint8 RGB to features (B, dimension) float32."""
        return self.start(tiles)()

    def start(self, tiles: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to encode; what is returned waits for the features and gives them."""
        step = tiles_at_once(self.input_size) if torch.device(self.device).type == "cpu" else len(tiles)
        if len(tiles) <= step:
            return self.one_pass(tiles)
        features = np.concatenate([self.one_pass(tiles[first : first + step])() for first in range(0, len(tiles), step)])
        return lambda: features

    def one_pass(self, tiles: np.ndarray) -> Callable[[], np.ndarray]:
        """As :meth:`start`, with all tiles in one forward pass whatever the device."""
        kind = torch.device(self.device).type
        with torch.inference_mode():
            inputs = {name: self._there(tensor, kind) for name, tensor in self.inputs(tiles).items()}
            with torch.autocast(kind, dtype=getattr(torch, self.precision), enabled=self.precision != "float32"):
                features = self.compute(inputs)
            return _back(features.float(), kind)

    def _there(self, tensor: torch.Tensor, kind: str) -> torch.Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True) if kind == "cuda" else tensor.to(self.device)


def _back(features: torch.Tensor, kind: str) -> Callable[[], np.ndarray]:
    if kind != "cuda":
        found = features.cpu().numpy()
        return lambda: found
    host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
    host.copy_(features, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(features.device))

    def wait() -> np.ndarray:
        copied.synchronize()
        return host.numpy()

    return wait
