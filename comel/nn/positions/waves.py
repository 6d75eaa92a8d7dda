"""Sines and cosines of whole numbers, such as columns and rows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["waves"]


def waves(places: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Tensor:
    """Sine, then cosine, of every place times every frequency.

    Computed in single precision at least: half precision holds no phase of a slide's length.

    Args:
        places: (n, axes) whole numbers.
        frequencies: (waves,) radians per step.
        dtype: of the result.

    Returns:
        (n, 2 axes waves).
    """
    with torch.autocast(places.device.type, enabled=False):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        phases = (places.to(wide).unsqueeze(-1) * frequencies.to(places.device, wide)).flatten(1)
        return torch.cat([phases.sin(), phases.cos()], dim=1).to(dtype)
