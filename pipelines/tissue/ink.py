"""Marker ink on a slide: red, green, blue and black, distinguished from stain by optical density and size.

Layers of stain and ink add up in optical density (Beer and Lambert), so the differences between the densities of red,
green and blue light reveal an ink even over tissue. Hematoxylin, eosin and DAB all absorb green light about as
much as red or more, and no common stain absorbs red and blue light alike as strongly as black ink does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.tissue.thumbnail import Thumbnail

__all__ = ["INK_COLOURS", "find_border", "find_ink"]

INK_COLOURS = ("red", "green", "blue", "black")

_SMALLEST_STROKE_UM2 = 150.0**2
_REACH_UM = 40.0
_RIM_UM = 8.0
_BORDER_SHARE = 0.25
_FRINGE_UM = 40.0


def find_ink(thumbnail: Thumbnail, colours: Sequence[str] = INK_COLOURS) -> np.ndarray:
    """The marker ink of a thumbnail.

    A stroke has a core of a colour that stain does not have, larger than a speck of dust; it is extended by weaker ink of
    the same colour within 40 um, and a rim of 8 um where its edge mixes with its surroundings.

    Args:
        thumbnail: the slide.
        colours: the inks to look for; leave out colours that the slide is stained in, such as blue for a trichrome.

    Returns:
        (h, w) uint8: 0 for none, otherwise 1 + the index in :data:`INK_COLOURS`.
    """
    import cv2

    found = np.zeros(thumbnail.pixels.shape[:2], np.uint8)
    border = find_border(thumbnail)
    least = max(4.0, _SMALLEST_STROKE_UM2 / thumbnail.pixel_um2)
    reach, rim = (_disk(thumbnail.pixels_of(length)) for length in (_REACH_UM, _RIM_UM))
    for index, (core, weak) in enumerate(_by_colour(thumbnail.density)):
        if INK_COLOURS[index] not in colours:
            continue
        stroke = _larger_than(core & ~border, least)
        if not stroke.any():
            continue
        near = cv2.dilate(stroke.astype(np.uint8), reach)
        grown = stroke | (near.astype(bool) & weak)
        grown = cv2.dilate(cv2.morphologyEx(grown.astype(np.uint8), cv2.MORPH_CLOSE, rim), rim).astype(bool)
        found[grown & (found == 0)] = index + 1
    return found


def find_border(thumbnail: Thumbnail) -> np.ndarray:
    """(h, w) bool: the black that a scanner stores outside the slide, and its fringe.

    Black that runs along at least a quarter of a side of the picture; a stroke that leaves the picture is narrower.
    """
    import cv2

    black = _neutral(thumbnail.density, 0.7, 0.3)
    count, parts = cv2.connectedComponents(black.astype(np.uint8))
    sides = (parts[0], parts[-1], parts[:, 0], parts[:, -1])
    touching = [np.bincount(side, minlength=count) >= _BORDER_SHARE * len(side) for side in sides]
    is_border = np.any(touching, axis=0)
    is_border[0] = False
    if not is_border.any():
        return np.zeros(black.shape, bool)
    border = is_border[parts].astype(np.uint8)
    return cv2.dilate(border, _disk(thumbnail.pixels_of(_FRINGE_UM))).astype(bool)


def _by_colour(density: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(sure, possible) ink of each colour, both (h, w) bool."""
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]

    def red_ink(least: float) -> np.ndarray:
        # Blood and eosin absorb blue light less; DAB absorbs blue light more than green.
        red_enough: np.ndarray = (np.minimum(green, blue) - red > least) & (green > 0.95 * blue)
        return red_enough

    def green_ink(least: float) -> np.ndarray:
        green_enough: np.ndarray = (red - green > least) & (blue - green > 0.0)
        return green_enough

    def blue_ink(least: float) -> np.ndarray:
        bluer = (red - green > 0.4 * least) & (red - blue > 0.55 * least)
        blue_enough: np.ndarray = (
            (blue < green + 0.05) & (red - green > -0.15) & (bluer | ((red - blue > least) & (green - blue > 0.5 * least)))
        )
        return blue_enough

    return [
        (red_ink(0.45), red_ink(0.25)),
        (green_ink(0.12), green_ink(0.06)),
        (blue_ink(0.5), blue_ink(0.3)),
        (_neutral(density, 0.7, 0.3), _neutral(density, 0.35, 0.4)),
    ]


def _neutral(density: np.ndarray, least: float, most_spread: float) -> np.ndarray:
    """(h, w) bool: dense for light of all colours alike."""
    mean = density.mean(axis=2)
    dark: np.ndarray = (mean > least) & (density.max(axis=2) - density.min(axis=2) < most_spread * mean)
    return dark


def _larger_than(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The connected parts of a mask with more than ``pixels`` pixels."""
    import cv2

    _, parts, found, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = found[:, cv2.CC_STAT_AREA] > pixels
    keep[0] = False
    large: np.ndarray = keep[parts]
    return large


def _disk(radius: float) -> np.ndarray:
    import cv2

    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
