"""The true downsample of each level of a slide, and which levels are read.

OpenSlide uses the mean ratio of the sides as a level's downsample. That is correct to within a pixel if a level is
the whole slide scaled down, and wrong if it was padded to whole tiles: then tiles are misplaced, by up to thousands of
pixels. So the downsample is

1. OpenSlide's own, for formats in which it reads it from the file instead of the sides;
2. the one implied by the level's resolution, if its size fits: to a pixel, or padded to whole tiles;
3. the ratio of the sides, if those of x and y agree to within a pixel's rounding.

A level that has none of these is never read, and neither is one of two of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Level", "Stored", "true_levels"]

_KNOWN_BY_OPENSLIDE = ("leica", "mirax", "philips", "sakura", "ventana", "zeiss")
_ROUNDING = 1.0 + 1e-6
_SAME = 0.01
_COARSEST_MPP = 20.0
"""Micrometres per pixel above which a resolution that does not fit is the 72 to 600 dots per inch of a screen or printer."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Stored:
    """A level as stored.

    Attributes:
        size: (width, height) in its pixels.
        ratio: its downsample according to OpenSlide.
        mpp: micrometres per pixel (x, y) that are stated for it, if any.
        tile: (width, height) of its tiles, if stated.
        doubtful: whether another picture than the slide may lie here.
    """

    size: Pair
    ratio: float
    mpp: tuple[float, float] | None = None
    tile: Pair | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class Level:
    """A level as read.

    Attributes:
        size: (width, height) of the part that shows the slide, in pixels of the level: without padding to whole tiles.
        downsample: level-0 pixels per pixel; infinite for a level that is not read.
        extent: (width, height) of level 0 in pixels of this level, not rounded.
    """

    size: Pair
    downsample: float
    extent: tuple[float, float]


def true_levels(stored: Sequence[Stored], vendor: str | None) -> list[Level]:
    """The levels of a slide, in their order.

    Args:
        stored: level 0 first.
        vendor: OpenSlide's name of the format.
    """
    sizes = [level.size for level in stored]
    return [
        _level(sizes[0], level, 1.0 if number == 0 else None)
        if number == 0 or vendor in _KNOWN_BY_OPENSLIDE
        else _settled(stored[0], level)
        if sizes.count(level.size) == 1 and not level.doubtful
        else _unread(level)
        for number, level in enumerate(stored)
    ]


def _settled(full: Stored, level: Stored) -> Level:
    """A level whose downsample OpenSlide does not read from the file."""
    whole, size = full.size, level.size
    ratio, stated = _agreed_ratio(whole, level), _stated(full, level)
    whole_tiles = level.tile is not None and not any(side % step for side, step in zip(size, level.tile, strict=True))
    if stated is not None:
        power = math.log2(stated).is_integer()
        if _fits(whole, size, stated) or (power and _fits_filled(whole, size, stated, level.tile)):
            return _level(whole, level, stated)
        # A resolution that is not a power of two may be rounded, and sides that are not whole tiles are not padded.
        rounded = ratio is not None and not whole_tiles and abs(ratio / stated - 1) < _SAME
        if not rounded and level.mpp is not None and max(level.mpp) <= _COARSEST_MPP:
            return _unread(level)
    # The sides of a square slide also agree if both were padded, but on a ratio that is not whole.
    if ratio is None or (whole_tiles and not _fits(whole, size, max(1.0, round(ratio)))):
        return _unread(level)
    return Level(size, ratio, (float(size[0]), float(size[1])))


def _level(whole: Pair, level: Stored, factor: float | None) -> Level:
    """A level of a known downsample, OpenSlide's if none is given."""
    downsample = level.ratio if factor is None else factor
    extent = (whole[0] / downsample, whole[1] / downsample)
    if not _fits(whole, level.size, downsample):
        # The last, partly covered pixel is left out, since it may have been padded too.
        shown = [max(1, min(side, int(exact + 1e-6))) for side, exact in zip(level.size, extent, strict=True)]
        return Level((shown[0], shown[1]), downsample, extent)
    return Level(level.size, downsample, extent if factor else (float(level.size[0]), float(level.size[1])))


def _unread(level: Stored) -> Level:
    return Level(level.size, math.inf, (float(level.size[0]), float(level.size[1])))


def _agreed_ratio(whole: Pair, level: Stored) -> float | None:
    """The ratio of the sides, if that of x and that of y agree: OpenSlide's mean or, since on a slide many times as long as
    it is wide the rounding of the short side spoils that, the longer side's."""
    longer = 0 if whole[0] >= whole[1] else 1
    ratios = (level.ratio, whole[longer] / level.size[longer])
    return next((ratio for ratio in ratios if _fits(whole, level.size, ratio)), None)


def _stated(full: Stored, level: Stored) -> float | None:
    """The downsample by the resolutions of the level and of level 0; None if the level states none of its own."""
    if full.mpp is None or level.mpp is None:
        return None
    x, y = (own / finest for own, finest in zip(level.mpp, full.mpp, strict=True))
    if abs(x / y - 1) > _SAME or abs(x - 1) < _SAME:
        return None  # a copy of level 0's, as libvips writes it into every page, or of other pixels
    power = 2.0 ** round(math.log2(x))
    return power if abs(x / power - 1) < _SAME else (x + y) / 2


def _fits(whole: Pair, size: Pair, factor: float) -> bool:
    """Whether the sides of a level are those of the slide divided by the factor, up to rounding."""
    return all(abs(full / factor - side) <= _ROUNDING for full, side in zip(whole, size, strict=True))


def _fits_filled(whole: Pair, size: Pair, factor: float, tile: Pair | None) -> bool:
    """Whether a level holds the slide divided by the factor, padded by less than a tile."""
    return tile is not None and all(
        full / factor - _ROUNDING <= side <= math.ceil(full / factor / step - 1e-6) * step
        for full, side, step in zip(whole, size, tile, strict=True)
    )
