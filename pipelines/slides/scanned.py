"""The scanned regions of a slide's canvas, and the pieces in which an overview of them is read.

A slide may lie on a canvas many times the scanned size, and OpenSlide is slow even at painting empty areas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

__all__ = ["Box", "picture_pieces", "scanned_areas"]

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""

_PIECE_PIXELS = 16 << 20
_PIECE_WIDTH = 8192
# A filter reaches one pixel of the picture beyond its own, and a coarse level's edge may lie one pixel beyond level 0's.
_MARGIN = 2


def scanned_areas(properties: Mapping[str, str], size: tuple[int, int]) -> list[Box]:
    """Where the slide has pixels: its regions if it lists them, otherwise its bounds, otherwise everything.

    Args:
        properties: the slide's, under OpenSlide's names.
        size: (width, height) of level 0.

    Returns:
        Boxes in level-0 pixels within the slide; they may overlap.
    """
    found: list[Box] = []
    while (region := _box(properties, f"openslide.region[{len(found)}].")) is not None:
        found.append(region)
    if not found and (bounds := _box(properties, "openslide.bounds-")) is not None:
        found.append(bounds)
    width, height = size
    inside = [(max(0, left), max(0, top), min(width, right), min(height, bottom)) for left, top, right, bottom in found]
    return [box for box in inside if box[0] < box[2] and box[1] < box[3]] or [(0, 0, width, height)]


def picture_pieces(areas: list[Box], full: tuple[int, int], level: tuple[float, float], size: tuple[int, int]) -> Iterator[Box]:
    """The boxes to read for a picture of the whole slide, area by area, column by column.

    A piece takes at most 16 Mpx of the level, and the pieces of a column follow one another downwards, so that stored tiles
    which two of them share are still in OpenSlide's cache: of a level of any width nearly all are decoded once.

    Args:
        areas: see :func:`scanned_areas`.
        full: (width, height) of level 0.
        level: (width, height) of level 0 in pixels of the level that is read, not rounded.
        size: (width, height) of the picture.
    """
    across, down = level[0] / size[0], level[1] / size[1]
    columns = max(1, int(_PIECE_WIDTH / across))
    for area in areas:
        left, right = _pixels_of(area[0], area[2], full[0], size[0])
        top, bottom = _pixels_of(area[1], area[3], full[1], size[1])
        for start in range(left, right, columns):
            end = min(start + columns, right)
            rows = max(1, int(_PIECE_PIXELS / ((end - start) * across) / down))
            for row in range(top, bottom, rows):
                yield start, row, end, min(row + rows, bottom)


def _pixels_of(first: int, last: int, full: int, size: int) -> tuple[int, int]:
    """The picture's pixels that a length of level 0 reaches, with a margin."""
    scale = size / full
    return max(0, math.floor(first * scale) - _MARGIN), min(size, math.ceil(last * scale) + _MARGIN)


def _box(properties: Mapping[str, str], prefix: str) -> Box | None:
    try:
        x, y, width, height = (int(properties[prefix + name]) for name in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return x, y, x + width, y + height
