"""Shifts of H&E staining, by albumentations' ``HEStain``; the only file that uses it.

Each shift re-stains an image with fixed reference vectors of hematoxylin and eosin, so that the same shift gives the same
picture every time. A cohort may also be extracted with a different shift for each slide, as if from as many laboratories.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

from pipelines.stain.staining import STAINS

__all__ = ["drawn_shift", "restain"]

_SCALE, _SHIFT = 1.15, 0.05  # of both stains' concentrations
_SCALES, _SHIFTS = (0.8, 1.25), (-0.05, 0.1)


def drawn_shift(name: str) -> tuple[str, float, float]:
    """A shift for a slide: (stain, scale, shift) as :func:`restain` takes them, the same for the same name everywhere."""
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))
    return STAINS[int(draw.integers(1, len(STAINS)))], float(draw.uniform(*_SCALES)), float(draw.uniform(*_SHIFTS))


def restain(images: np.ndarray, stain: str, scale: float = _SCALE, shift: float = _SHIFT) -> np.ndarray:
    """Images (N, H, W, 3) uint8 as if stained differently; ``as-scanned`` changes nothing.

    Args:
        images: RGB.
        stain: one of :data:`STAINS`.
        scale, shift: both stains' concentrations are multiplied by ``scale``, then ``shift`` is added.

    Raises:
        ValueError: there is no such stain.
    """
    if stain not in STAINS:
        raise ValueError(f"no stain '{stain}'; there are {', '.join(STAINS)}")
    if stain == "as-scanned":
        return images
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise its import checks the network for a newer version
    import albumentations

    shifted = albumentations.HEStain(
        method="preset",
        preset=stain,
        intensity_scale_range=(scale, scale),
        intensity_shift_range=(shift, shift),
        augment_background=True,
        p=1.0,
    )
    return np.stack([shifted(image=image)["image"] for image in images]) if len(images) else images
