"""A picture for checking an extraction: the slide, its tissue's outline, the kept tiles, and ink, folds and blur."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.tissue import TissueMask

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.slides.slide import Slide
    from pipelines.tiles.plan import TilePlan

__all__ = ["BLURRED", "MAX_SIDE", "draw_overlay"]

MAX_SIDE = 1024
BLURRED = 0.6
"""Tiles with more blur than this are marked, as ``comel bags stats`` counts; see :func:`pipelines.tiles.quality.blurriness`."""

_COLOURS = {
    "tissue": (0, 130, 50),
    "tile": (30, 80, 220),
    "positive": (220, 30, 30),
    "ink": (255, 140, 0),
    "fold": (0, 205, 215),
    "blurred": (250, 225, 0),
}
_SMALLEST_OUTLINED = 8.0
_FONT_SIZE, _SWATCH, _PADDING = 14, 12, 8


def draw_overlay(
    slide: Slide,
    tissue: TissueMask,
    plan: TilePlan,
    labels: np.ndarray | None = None,
    blur: np.ndarray | None = None,
) -> Image:
    """Draw tissue outlines, holes too, ink, folds and tiles over a thumbnail, with a legend below.

    Kept tiles are blue, positive ones red, blurred ones crossed in yellow.

    Args:
        slide: the open slide.
        tissue: its tissue mask.
        plan: its tiles.
        labels: (N,) instance labels, if there is an annotation.
        blur: (N,) blur of each tile, if it was measured.

    Returns:
        RGB without a colour profile; the slide's longer side is at most :data:`MAX_SIDE` pixels, the legend comes below.

    Raises:
        SlideError: the slide's pixels cannot be read.
    """
    from PIL import Image, ImageDraw

    picture = slide.thumbnail(MAX_SIDE)
    positive = np.zeros(len(plan.coords), bool) if labels is None else labels == 1
    blurred = np.zeros(len(plan.coords), bool) if blur is None else blur > BLURRED
    scale = np.array([slide.dimensions[0] / picture.width, slide.dimensions[1] / picture.height])
    corners = plan.coords / scale
    size = np.array([plan.geometry.tile_width, plan.geometry.tile_height]) / scale
    draw = ImageDraw.Draw(picture, "RGBA")
    # Positive tiles last: neighbours share an edge, and the later line covers it.
    for index in np.argsort(positive, kind="stable"):
        colour = _COLOURS["positive" if positive[index] else "tile"]
        box = (*corners[index], *(corners[index] + size))
        # Outlines of tiles of a few pixels would hide the slide.
        outline = (*colour, 170) if size.min() >= _SMALLEST_OUTLINED else None
        draw.rectangle(box, outline=outline, fill=(*colour, 70 if positive[index] else 30))
        if blurred[index]:
            left, top, right, bottom = box
            for line in ((left, top, right, bottom), (left, bottom, right, top)):
                draw.line(line, fill=_COLOURS["blurred"], width=2)
    pixels = np.array(picture)
    for name, mask in (("ink", tissue.ink), ("fold", tissue.fold)):
        _mark(pixels, mask, _COLOURS[name], fill=0.45)
    _mark(pixels, tissue.mask, _COLOURS["tissue"], fill=0.0)
    occurs = {
        "tissue": tissue.mask.any(),
        "tile": not positive.all(),
        "positive": positive.any(),
        "ink": tissue.ink is not None and tissue.ink.any(),
        "fold": tissue.fold is not None and tissue.fold.any(),
        "blurred": blurred.any(),
    }
    return _with_legend(Image.fromarray(pixels), [name for name, there in occurs.items() if there])


def _mark(pixels: np.ndarray, mask: np.ndarray | None, colour: tuple[int, int, int], *, fill: float) -> None:
    """Draws a mask into (h, w, 3) pixels: its outline, and its area as much as ``fill`` says."""
    import cv2

    if mask is None or not mask.any():
        return
    area = cv2.resize((mask > 0).astype(np.uint8), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    inside = area.astype(bool)
    pixels[inside] = (1 - fill) * pixels[inside] + fill * np.array(colour)
    outline = cv2.morphologyEx(area, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    pixels[outline.astype(bool)] = colour


def _with_legend(picture: Image, names: list[str]) -> Image:
    """The picture with a legend on a white strip below it; on narrow pictures in several lines."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    line = _FONT_SIZE + _PADDING
    places: list[tuple[str, int, int]] = []
    x, row = _PADDING, 0
    for name in names:
        width = _SWATCH + _PADDING + round(font.getlength(name)) + 2 * _PADDING
        if x > _PADDING and x + width > picture.width:
            x, row = _PADDING, row + 1
        places.append((name, x, row))
        x += width
    whole = Image.new("RGB", (picture.width, picture.height + (row + 1) * line + _PADDING), "white")
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for name, x, row in places:
        y = picture.height + _PADDING + row * line
        draw.rectangle((x, y, x + _SWATCH, y + _SWATCH), fill=_COLOURS[name], outline="black")
        draw.text((x + _SWATCH + _PADDING, y + _SWATCH / 2), name, fill="black", font=font, anchor="lm")
    return whole
