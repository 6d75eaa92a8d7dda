"""Synthetic slides as files: a tiled JPEG pyramid that OpenSlide opens, and the tumour mask beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from comel.base.files import atomic_path, canonical_json
from pipelines.synth.fields import COARSE

__all__ = ["NOTICE", "is_complete", "write_mask", "write_pyramid"]

NOTICE = "SYNTHETIC: computer-generated image for testing software. It shows no tissue of any person or animal."

_TILE = 256
_SMALLEST = 256
_QUALITY = 90


def write_pyramid(path: Path, image: np.ndarray, *, mpp: float, recipe: dict[str, Any]) -> None:
    """Write a tiled JPEG TIFF whose further pages halve until a side is at most 256 pixels.

    Args:
        path: the ``.tif`` to write.
        image: (height, width, 3) uint8.
        mpp: micrometres per pixel of ``image``.
        recipe: the settings that the slide was made from; stored in the image description with the notice that it is synthetic.
    """
    import tifffile

    description = canonical_json({"notice": NOTICE, "recipe": recipe})
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as writer:
        level, scale = image, 1
        while True:
            writer.write(
                level,
                photometric="rgb",
                tile=(_TILE, _TILE),
                compression="jpeg",
                compressionargs={"level": _QUALITY},
                subfiletype=1 if scale > 1 else 0,
                resolution=(1e4 / (mpp * scale), 1e4 / (mpp * scale)),
                resolutionunit="CENTIMETER",
                description=description if scale == 1 else None,
                metadata=None,
                software="comel synth",
            )
            if max(level.shape[:2]) // 2 < _SMALLEST and scale > 1:
                break
            level, scale = _halved(level), scale * 2


def write_mask(path: Path, tumour: np.ndarray) -> None:
    """Write a (height, width) bool mask as a PNG of 0 and 255."""
    with atomic_path(path) as temporary:
        Image.fromarray(tumour.astype(np.uint8) * 255).save(temporary, format="PNG", optimize=True)


def is_complete(slide: Path, mask: Path, recipe: dict[str, Any]) -> bool:
    """Whether both files exist, are complete, and were made from ``recipe``."""
    import tifffile

    try:
        with tifffile.TiffFile(slide) as file:
            if json.loads(file.pages.first.description).get("recipe") != recipe:
                return False
            ends = [
                offset + count
                for page in file.pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
            whole = max(ends) <= slide.stat().st_size and len(file.pages) > 1
        with Image.open(mask) as image:
            image.load()
            return whole and image.size == (recipe["size"] // COARSE,) * 2
    except (OSError, ValueError, AttributeError, KeyError, IndexError, SyntaxError, tifffile.TiffFileError):
        return False


def _halved(image: np.ndarray) -> np.ndarray:
    """The mean of 2 x 2 pixels."""
    total = image[0::2, 0::2].astype(np.uint16) + image[1::2, 0::2] + image[0::2, 1::2] + image[1::2, 1::2]
    halved: np.ndarray = ((total + 2) // 4).astype(np.uint8)
    return halved
