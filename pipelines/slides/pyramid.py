"""How coarse each level of a slide truly is, and which levels are read.

OpenSlide takes the mean of the ratios of the sides for a level's downsample. That is right to within a pixel where a level is
the slide made smaller, and wrong where its maker filled it up to whole tiles: then tiles lie beside their place, by thousands
of pixels. So the factor is

1. OpenSlide's own, for formats in which it reads the factor from the file instead of the sides;
2. what the resolution of the level says, if its size fits: to a pixel, or filled up to whole tiles;
3. the ratio of the sides, if those of x and y agree to within a pixel's rounding.

A level that has none of these is never read, and neither is one of two that have the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Level", "Stored", "true_levels"]

_KNOWN_BY_OPENSLIDE = ("leica", "mirax", "philips", "sakura", "ventana", "zeiss")
_ROUNDING = 1.0 + 1e-6
_SAME_FACTOR = 0.01
_COARSEST_MPP = 20.0
"""More micrometres per pixel than this are the 72 to 600 dots per inch of a screen or a printer, if they do not fit."""


@dataclass(frozen=True)
class Stored:
    """A level as it is stored.

    Attributes:
        width, height: in its pixels.
        ratio: its downsample according to OpenSlide.
        mpp: micrometres per pixel (x, y) that are stated for it, if any.
        tile: (width, height) of its tiles, if stated.
    """

    width: int
    height: int
    ratio: float
    mpp: tuple[float, float] | None = None
    tile: tuple[int, int] | None = None


@dataclass(frozen=True)
class Level:
    """A level as it is read.

    Attributes:
        width, height: of what shows the slide, in pixels of the level: without what fills it up to whole tiles.
        downsample: level-0 pixels per pixel; infinite for a level that is not read.
        extent: (width, height) of level 0 in pixels of this level, not rounded.
    """

    width: int
    height: int
    downsample: float
    extent: tuple[float, float]


def true_levels(stored: Sequence[Stored], vendor: str | None) -> list[Level]:
    """The levels of a slide, in their order.

    Args:
        stored: level 0 first.
        vendor: OpenSlide's name of the format.
    """
    sizes = [(level.width, level.height) for level in stored]
    found = []
    for number, level in enumerate(stored):
        size, factor = sizes[number], level.ratio if number else 1.0
        if number and vendor not in _KNOWN_BY_OPENSLIDE:
            factor = _factor(stored[0], level) if sizes.count(size) == 1 else math.inf
        if factor == math.inf or _fits(sizes[0], size, factor):
            found.append(Level(*size, factor, (float(size[0]), float(size[1]))))
            continue
        extent = (sizes[0][0] / factor, sizes[0][1] / factor)
        shown = (min(side, math.ceil(exact - 1e-6)) for side, exact in zip(size, extent, strict=True))
        found.append(Level(*shown, factor, extent))
    return found


def _factor(full: Stored, level: Stored) -> float:
    """A level's downsample, infinite if it cannot be known."""
    whole, size = (full.width, full.height), (level.width, level.height)
    longer = max(range(2), key=lambda axis: whole[axis])
    # On a slide many times as long as it is wide the rounding of the short side spoils OpenSlide's mean.
    agreed = next((ratio for ratio in (level.ratio, whole[longer] / size[longer]) if _fits(whole, size, ratio)), None)
    stated = _stated(full, level)
    whole_tiles = level.tile is not None and not any(side % step for side, step in zip(size, level.tile, strict=True))
    if stated is not None:
        if _fits(whole, size, stated) or (agreed and not whole_tiles and abs(agreed / stated - 1) < _SAME_FACTOR):
            return agreed or stated
        if _fits_filled(whole, size, stated, level.tile):
            return stated
        if level.mpp is not None and max(level.mpp) <= _COARSEST_MPP:
            return math.inf
    # The sides of a square slide agree also where both were filled up, on a factor that is no whole number.
    if agreed is None or (whole_tiles and not _fits(whole, size, max(1.0, round(agreed)))):
        return math.inf
    return agreed


def _stated(full: Stored, level: Stored) -> float | None:
    """The downsample by the resolutions of the level and of level 0; None if the level states none of its own."""
    if full.mpp is None or level.mpp is None:
        return None
    x, y = (own / finest for own, finest in zip(level.mpp, full.mpp, strict=True))
    if abs(x / y - 1) > _SAME_FACTOR or abs(x - 1) < _SAME_FACTOR:
        return None  # a copy of level 0's, as libvips writes it into every page, or of other pixels
    # Resolutions are rounded; a factor is nearly always a power of two.
    power = 2.0 ** round(math.log2(x))
    return power if abs(x / power - 1) < _SAME_FACTOR else (x + y) / 2


def _fits(whole: tuple[int, int], size: tuple[int, int], factor: float) -> bool:
    """Whether the sides of a level are those of the slide over the factor, but for rounding."""
    return all(abs(full / factor - side) <= _ROUNDING for full, side in zip(whole, size, strict=True))


def _fits_filled(whole: tuple[int, int], size: tuple[int, int], factor: float, tile: tuple[int, int] | None) -> bool:
    """Whether a level holds the slide over the factor, filled up by less than a tile."""
    shown = [full / factor for full in whole]
    return tile is not None and all(
        exact - _ROUNDING <= side <= math.ceil((exact - 1e-6) / step) * step
        for exact, side, step in zip(shown, size, tile, strict=True)
    )
