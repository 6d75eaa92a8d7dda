"""What the encoders of an extraction are compared with: a whole batch in every forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipelines.patch_encoders.base import PatchEncoder
from pipelines.patch_encoders.efficientnet_lite import EfficientNetLite0, published_network
from pipelines.patch_encoders.torch_encoder import TorchEncoder

__all__ = ["with_whole_batches"]


def with_whole_batches(encoder: PatchEncoder) -> PatchEncoder:
    """An encoder with the same features up to rounding; ``encoder`` itself if nothing is known of how it computes."""
    if isinstance(encoder, EfficientNetLite0):
        return _PublishedLite0(encoder)
    return _WholeBatches(encoder) if isinstance(encoder, TorchEncoder) else encoder


class _WholeBatches(PatchEncoder):
    """A torch encoder's own network."""

    def __init__(self, encoder: TorchEncoder) -> None:
        self._encoder = encoder
        for name in ("name", "dimension", "weights_hash", "recipe", "input_size", "device", "mpp", "precision", "concurrent"):
            setattr(self, name, getattr(encoder, name))

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Features (B, dimension) float32 of tiles (B, H, W, 3) uint8 RGB."""
        return self.start(tiles)()

    def start(self, tiles: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to encode; what is returned waits for the features and gives them."""
        return self._encoder.one_pass(tiles)


class _PublishedLite0(TorchEncoder):
    """EfficientNet-Lite0 as its package computes it, its batch norms folded into the convolutions."""

    name, dimension, input_size, recipe = (
        getattr(EfficientNetLite0, name) for name in ("name", "dimension", "input_size", "recipe")
    )

    def __init__(self, encoder: EfficientNetLite0) -> None:
        self.run_on(encoder.device, encoder.precision)  # type: ignore[arg-type]
        self.weights_hash = encoder.weights_hash
        self._network = _without_batch_norms(published_network()).to(self.device, memory_format=torch.channels_last)

    def start(self, tiles: np.ndarray) -> Callable[[], np.ndarray]:
        """Begin to encode; what is returned waits for the features and gives them."""
        return self.one_pass(tiles)

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, 1280) of tiles (B, H, W, 3) uint8."""
        pixels = inputs["tiles"].permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if pixels.shape[-2:] != (self.input_size, self.input_size):
            pixels = functional.interpolate(pixels, size=self.input_size, mode="bilinear", antialias=True)
        maps = self._network.extract_features((pixels - 127) / 128)  # (B, 1280, 7, 7)
        vectors: torch.Tensor = maps.float().mean(dim=(2, 3))
        return vectors


def _without_batch_norms(network: Any) -> Any:
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    inside = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for module, names in [(network, pairs), *((block, inside) for block in network._blocks)]:
        for convolution, norm in names.items():
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network
