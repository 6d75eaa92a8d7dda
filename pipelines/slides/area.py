"""An area of a level, not rounded to its pixels, as an image of a given size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Area"]

_AVERAGE_FROM = 2.0


@dataclass(frozen=True)
class Area:
    """The pixels to read from a level for an area, and how they become the image.

    Shrinking twofold or more averages over the area; otherwise the filter is bilinear, widened where it shrinks (neither
    aliases). An area of ``size`` whole pixels is copied.

    Attributes:
        left, top, right, bottom: whole pixels of the level that are read: the area, and around it what the filter reaches.
        box: (left, top, right, bottom) of the area within these, not rounded.
        size: (width, height) of the image in pixels.
        exact: whether the pixels read are the image itself.
    """

    left: int
    top: int
    right: int
    bottom: int
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    exact: bool

    @classmethod
    def of(cls, box: tuple[float, float, float, float], size: tuple[int, int], limits: tuple[int, int]) -> Area:
        """The area ``box`` (left, top, right, bottom) of a level whose (width, height) is ``limits``; the rest is cut off."""
        left, right = (min(max(edge, 0.0), float(limits[0])) for edge in (box[0], box[2]))
        top, bottom = (min(max(edge, 0.0), float(limits[1])) for edge in (box[1], box[3]))
        shrink = ((right - left) / size[0], (bottom - top) / size[1])
        exact = all(edge == int(edge) for edge in (left, top, right, bottom)) and (right - left, bottom - top) == size
        # A bilinear filter reaches half a pixel of the result beyond the area, an average not at all.
        margins = [0 if exact or min(shrink) >= _AVERAGE_FROM else math.ceil(max(each, 1.0) / 2) for each in shrink]
        first = (max(0, math.floor(left) - margins[0]), max(0, math.floor(top) - margins[1]))
        last = (min(limits[0], math.ceil(right) + margins[0]), min(limits[1], math.ceil(bottom) + margins[1]))
        inside = (left - first[0], top - first[1], right - first[0], bottom - first[1])
        return cls(*first, *last, inside, size, exact)

    def resample(self, region: Image) -> Image:
        """The image, from the pixels (left, top) to (right, bottom)."""
        from PIL import Image

        if self.exact:
            return region
        shrink = min((self.box[2] - self.box[0]) / self.size[0], (self.box[3] - self.box[1]) / self.size[1])
        averages = shrink >= _AVERAGE_FROM
        return region.resize(self.size, Image.Resampling.BOX if averages else Image.Resampling.BILINEAR, box=self.box)
