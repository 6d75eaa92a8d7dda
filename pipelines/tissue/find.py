"""The tissue of a slide: a method by name, without ink, borders and edges, cleaned of specks and pinholes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comel.errors import ConfigError
from pipelines.tissue.folds import find_folds
from pipelines.tissue.hsv_otsu import hsv_otsu
from pipelines.tissue.ink import INK_COLOURS, find_border, find_ink
from pipelines.tissue.mask import TissueMask
from pipelines.tissue.own import draw_own_tissue
from pipelines.tissue.stain_density import stain_density
from pipelines.tissue.thumbnail import Thumbnail, read_thumbnail

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide

__all__ = ["TISSUE_METHODS", "find_tissue", "segment"]

_SMALLEST_OBJECT_UM2 = 120.0**2
_LARGEST_HOLE_UM2 = 100.0**2
_CLOSING_UM = 16.0
_SMALL_PICTURE_UM2 = 1000.0**2
_CUT_OFF, _OF_PICTURE = 0.25, 0.25
_EDGE_LENGTH_UM, _EDGE_WIDTH_UM = 2000.0, 120.0

TissueMethod = Callable[[Thumbnail, np.ndarray], np.ndarray]
"""From a thumbnail and its mask clear of ink and borders, (h, w) bool, to its tissue, (h, w) bool."""

TISSUE_METHODS: dict[str, TissueMethod] = {"hsv-otsu": hsv_otsu, "stain-density": stain_density}
"""The methods that find tissue by themselves, by name."""


def find_tissue(
    slide: Slide, method: str = "hsv-otsu", *, file: Path | None = None, ink_colours: Sequence[str] = INK_COLOURS
) -> TissueMask:
    """Find the tissue of a slide, its ink and its folds.

    Args:
        slide: an open slide.
        method: a name in :data:`TISSUE_METHODS`; not used if there is a file.
        file: the user's own tissue (:mod:`pipelines.tissue.own`), used unchanged, also under ink.
        ink_colours: the inks to look for, from :data:`pipelines.tissue.ink.INK_COLOURS`.

    Raises:
        ConfigError: there is no such method.
        SlideError: the slide's pixels or the file cannot be read.
    """
    if file is None and method not in TISSUE_METHODS:
        raise ConfigError(f"no tissue method '{method}'", f"choose one of {', '.join(sorted(TISSUE_METHODS))}")
    thumbnail = read_thumbnail(slide)
    ink = find_ink(thumbnail, ink_colours)
    height, width = ink.shape
    mask = segment(thumbnail, method, ink) if file is None else draw_own_tissue(file, slide, (height, width))
    return TissueMask(
        mask,
        slide.dimensions[0] / width,
        slide.dimensions[1] / height,
        area_mm2=float(mask.sum()) * thumbnail.pixel_um2 * 1e-6,
        ink=ink,
        fold=find_folds(thumbnail, mask),
    )


def segment(thumbnail: Thumbnail, method: str, ink: np.ndarray) -> np.ndarray:
    """(h, w) bool, the tissue of a thumbnail by a method of :data:`TISSUE_METHODS`.

    Args:
        thumbnail: the slide.
        method: the method's name.
        ink: (h, w), nonzero for ink.
    """
    import cv2

    clear = (ink == 0) & ~find_border(thumbnail)
    found = TISSUE_METHODS[method](thumbnail, clear).astype(np.uint8)
    side = 2 * max(1, round(thumbnail.pixels_of(_CLOSING_UM))) + 1
    closed = cv2.morphologyEx(found, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    tissue: np.ndarray = _without_pinholes(_without_specks_and_edges(closed, thumbnail), thumbnail) & clear
    return tissue


def _without_specks_and_edges(mask: np.ndarray, thumbnail: Thumbnail) -> np.ndarray:
    """Drops small objects, and long, thin, straight ones: the edge of a cover slip, a scratch."""
    import cv2

    _, parts, found, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = found[:, cv2.CC_STAT_AREA] > _least_area(_SMALLEST_OBJECT_UM2, found, thumbnail)
    keep[0] = False
    length, width = thumbnail.pixels_of(_EDGE_LENGTH_UM), thumbnail.pixels_of(_EDGE_WIDTH_UM)
    for part in np.flatnonzero(keep):
        left, top, across, down, area = (int(value) for value in found[part])
        reach = float(np.hypot(across, down))
        if reach >= length and area <= width * reach:
            inside = parts[top : top + down, left : left + across] == part
            points = np.argwhere(inside)[:, ::-1].astype(np.float32)
            sides = cv2.minAreaRect(points)[1]
            keep[part] = not (max(sides) >= length and min(sides) <= width)
    kept: np.ndarray = keep[parts]
    return kept


def _without_pinholes(mask: np.ndarray, thumbnail: Thumbnail) -> np.ndarray:
    import cv2

    _, parts, found, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    pinhole = found[:, cv2.CC_STAT_AREA] <= _least_area(_LARGEST_HOLE_UM2, found, thumbnail)
    pinhole[0] = False
    filled: np.ndarray = mask | pinhole[parts]
    return filled


def _least_area(area_um2: float, found: np.ndarray, thumbnail: Thumbnail) -> np.ndarray:
    """(parts,) float64: the pixels that each connected part needs to count.

    In a picture of less than a square millimetre, such as a patch cut from a slide, a quarter is enough; the same holds for
    a part that the picture's edge cuts off, since it continues beyond.
    """
    import cv2

    height, width = thumbnail.pixels.shape[:2]
    least = np.full(len(found), area_um2 / thumbnail.pixel_um2)
    if width * height * thumbnail.pixel_um2 > _SMALL_PICTURE_UM2:
        return least
    left, top = found[:, cv2.CC_STAT_LEFT], found[:, cv2.CC_STAT_TOP]
    right, bottom = left + found[:, cv2.CC_STAT_WIDTH], top + found[:, cv2.CC_STAT_HEIGHT]
    least[(left == 0) | (top == 0) | (right == width) | (bottom == height)] *= _CUT_OFF
    small: np.ndarray = np.minimum(least, _OF_PICTURE * width * height)
    return small
