"""From tiles to the input of a network: resize, crop the centre, normalise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """A network's preprocessing of tiles.

    Attributes:
        resize: pixels that the shorter side of a tile is resized to.
        crop: side in pixels of the central crop, the network's input.
        interpolation: the resizing filter, antialiased.
        mean, std: the channels' statistics, for pixels from 0 to 1.
    """

    resize: int = 224
    crop: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def apply(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles (B, H, W, 3) uint8 RGB as (B, 3, crop, crop) float32 on the same device."""
        import torch
        from torch.nn import functional

        pixels = tiles.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
        height, width = tiles.shape[1:3]
        scale = self.resize / min(height, width)
        size = (round(height * scale), round(width * scale))
        if size != (height, width):
            # Bicubic weights are partly negative, and an image library would clip values outside the range.
            pixels = functional.interpolate(pixels, size=size, mode=self.interpolation, antialias=True).clamp(0, 1)
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        pixels = pixels[:, :, top : top + self.crop, left : left + self.crop]
        mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def describe(self) -> str:
        """The same in words, for a recipe."""
        cropped = f", middle {self.crop} px" if self.crop != self.resize else ""
        return f"resized to {self.resize} px ({self.interpolation}, antialiased){cropped}; mean {self.mean}, std {self.std}"
