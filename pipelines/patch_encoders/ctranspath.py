"""CTransPath: a Swin transformer whose tiles enter through three convolutions (Wang et al., Med. Image Anal. 2022)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from pipelines.patch_encoders.facts import EncoderFacts
from pipelines.patch_encoders.timm_vit import TimmEncoder

__all__ = ["CTransPath", "ConvolutionalStem"]

_BUFFERS = ("attn_mask", "relative_position_index")
_MERGING = re.compile(r"^layers\.(\d+)\.(?=downsample\.)")


class ConvolutionalStem(nn.Module):
    """Two strided 3x3 convolutions and a 1x1 in place of the Swin transformer's patch embedding.

    Args:
        img_size: side in pixels of the input.
        patch_size: pixels per side that become one token; the convolutions make it 4.
        in_chans: channels of the input.
        embed_dim: D, channels of a token.
        norm_layer: normalisation of the tokens, if given.
        **_: further arguments of timm's own patch embedding.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        layers: list[nn.Module] = []
        channels = in_chans
        for out in (embed_dim // 8, embed_dim // 4):
            layers += [
                nn.Conv2d(channels, out, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            channels = out
        self.proj = nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, kernel_size=1))
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, H/4, W/4, D)."""
        tokens: torch.Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


class CTransPath(TimmEncoder):
    """The mean over the positions of the last stage, 768 values."""

    def build(self, timm: Any, facts: EncoderFacts) -> nn.Module:
        """The network with random weights."""
        network: nn.Module = timm.create_model(
            "swin_tiny_patch4_window7_224",
            pretrained=False,
            num_classes=0,
            img_size=facts.input_size,
            embed_layer=ConvolutionalStem,
        )
        return network

    def translate(self, weights: dict[str, Any]) -> dict[str, Any]:
        """Without buffers and head; timm now counts patch merging to the stage after it, the weights to the one before."""
        kept = {
            name: tensor for name, tensor in weights.items() if not name.startswith("head.") and not name.endswith(_BUFFERS)
        }
        if not any(name.startswith("layers.0.downsample.") for name in kept):
            return kept
        return {_MERGING.sub(lambda match: f"layers.{int(match[1]) + 1}.", name): tensor for name, tensor in kept.items()}

    def features(self, network: Any, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors (B, 768) of ``pixels`` (B, 3, 224, 224)."""
        vectors: torch.Tensor = network.forward_features(pixels).float().mean(dim=(1, 2))  # (B, 7, 7, 768) -> (B, 768)
        return vectors
