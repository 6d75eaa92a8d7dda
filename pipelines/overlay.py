"""A picture to check an extraction by: the slide, the outline of its tissue, and the tiles that were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.tissue import TissueMask

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.slide import Slide
    from pipelines.tiles import TilePlan

__all__ = ["MAX_SIDE", "draw_overlay"]

MAX_SIDE = 1024

_TISSUE_COLOUR = (0, 150, 60)
_TILE_COLOUR = (30, 80, 220)
_POSITIVE_COLOUR = (220, 30, 30)


def draw_overlay(slide: Slide, tissue: TissueMask, plan: TilePlan, labels: np.ndarray | None = None) -> Image:
    """Draw tissue outline (green), kept tiles (blue) and positive tiles (red) over a thumbnail.

    Args:
        slide: the open slide.
        tissue: its tissue mask.
        plan: its tiles.
        labels: (N,) instance labels, where there is an annotation.

    Returns:
        RGB, longer side at most :data:`MAX_SIDE` pixels, without a colour profile.

    Raises:
        SlideError: the slide's pixels cannot be read.
    """
    from PIL import Image, ImageDraw
    from skimage.segmentation import find_boundaries

    picture = slide.thumbnail(MAX_SIDE)
    scale_x, scale_y = slide.dimensions[0] / picture.width, slide.dimensions[1] / picture.height
    draw = ImageDraw.Draw(picture, "RGBA")
    positive = np.zeros(len(plan.coords), bool) if labels is None else labels == 1
    corners = plan.coords / (scale_x, scale_y)
    size = np.array([plan.geometry.tile_width / scale_x, plan.geometry.tile_height / scale_y])
    # Positive tiles last: neighbours share an edge, and the later line covers it.
    for index in np.argsort(positive, kind="stable"):
        colour = _POSITIVE_COLOUR if positive[index] else _TILE_COLOUR
        box = (*corners[index], *(corners[index] + size))
        draw.rectangle(box, outline=(*colour, 190), fill=(*colour, 60) if positive[index] else None)
    mask = np.asarray(Image.fromarray(tissue.mask).resize(picture.size, Image.Resampling.NEAREST))
    pixels = np.array(picture)
    pixels[find_boundaries(mask, mode="thick")] = _TISSUE_COLOUR
    return Image.fromarray(pixels)
