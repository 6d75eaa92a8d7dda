"""Encoders in torch: mixed precision, several threads on a CPU, and a GPU that does not wait."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import torch

from comel.base.devices import resolve_device
from comel.base.units import Precision
from pipelines.patch_encoders.base import PatchEncoder, resolve_precision

__all__ = ["TorchEncoder"]


class TorchEncoder(PatchEncoder):
    """Puts :meth:`inputs` on the device and :meth:`compute` in the chosen precision.

    On a GPU the copies use pinned memory and the work is queued: :meth:`start` returns at once.
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
        """Start to encode; the returned function waits for the features and returns them."""
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
