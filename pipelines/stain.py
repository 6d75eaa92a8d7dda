"""Shifts of H&E staining, by albumentations' ``HEStain``; the only file that knows it.

Each shift re-stains an image with fixed reference vectors of hematoxylin and eosin, so that the same shift gives the same
picture every time.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import numpy as np

__all__ = ["STAINS", "Stain", "restain"]

Stain = Literal["as-scanned", "ruifrok", "macenko", "standard", "high_contrast", "h_heavy", "e_heavy", "dark", "light"]
STAINS: tuple[str, ...] = get_args(Stain)

_SCALE, _SHIFT = 1.15, 0.05  # of both stains' concentrations


def restain(images: np.ndarray, stain: str) -> np.ndarray:
    """Images (N, H, W, 3) uint8 as if stained otherwise; ``as-scanned`` changes nothing.

    Args:
        images: RGB.
        stain: one of :data:`STAINS`.

    Raises:
        ValueError: no such stain.
    """
    if stain not in STAINS:
        raise ValueError(f"no stain '{stain}'; there are {', '.join(STAINS)}")
    if stain == "as-scanned":
        return images
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would ask the network for a newer version
    import albumentations

    shifted = albumentations.HEStain(
        method="preset",
        preset=stain,
        intensity_scale_range=(_SCALE, _SCALE),
        intensity_shift_range=(_SHIFT, _SHIFT),
        augment_background=True,
        p=1.0,
    )
    return np.stack([shifted(image=image)["image"] for image in images]) if len(images) else images
