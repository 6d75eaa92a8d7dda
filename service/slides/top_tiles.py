"""The tiles with the strongest evidence for the predicted task's positive classes, and their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comel.prediction.prediction import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["strongest", "tile_pictures"]


def strongest(prediction: Prediction, count: int) -> list[int]:
    """Indices of the ``count`` tiles with the highest scores, highest first; of equal ones the earlier first."""
    return [int(index) for index in np.argsort(-prediction.instance_scores, kind="stable")[:count]]


def tile_pictures(path: Path, prediction: Prediction, indices: list[int], *, mpp: float | None) -> list[Image]:
    """The pixels of some tiles as the encoder saw them: ``patch_size`` pixels per side at the model's resolution.

    Raises:
        SlideError: the slide cannot be read.
    """
    from pipelines.slides.slide import open_slide

    geometry, coords = prediction.geometry, prediction.coords
    if geometry is None or coords is None or not indices:
        return []
    # Any resolution will do: the tiles' places and sizes are known in level-0 pixels.
    with open_slide(path, mpp=mpp, assume_mpp=geometry.level0_mpp_x) as slide:
        level = slide.level_for(geometry.tile_width / geometry.patch_size)
        downsample = slide.level_downsamples[level]
        size = (geometry.patch_size, geometry.patch_size)
        pictures = []
        for index in indices:
            left, top = coords[index] / downsample
            box = (left, top, left + geometry.tile_width / downsample, top + geometry.tile_height / downsample)
            pictures.append(slide.read_area(level, box, size))
    return pictures
