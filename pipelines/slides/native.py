"""A slide's stored tiles, decoded one at a time: directly from a TIFF's JPEG tiles if that is possible and exact.

OpenSlide paints the tiles it decodes onto a canvas with transparency and hands that over with the slide's colour profile,
which costs several times the decoding of a JPEG tile. Tiles of Aperio and plain tiled TIFFs are therefore decoded here,
by the same kind of library, to the same pixels. OpenSlide remains the reference: it reads everything stored differently, every
level where a tile decoded here differs from its own, and each single tile that does not decode cleanly, so damage is detected
equally.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide
    from pipelines.slides.tiff_pages import TiffPage

__all__ = ["NativeLevel", "NativeTiles"]

_JPEG, _APERIO_JPEG2000_RGB = 7, 33005
_RGB, _YCBCR = 2, 6
_END_OF_IMAGE = b"\xff\xd9"
_COMPARED = 3
_SAME_MEAN, _SAME_TEXTURE = 4.0, 0.7
_SMALLEST_SIDE, _LARGEST_SIDE = 192, 4096
_SIDE_WHERE_UNKNOWN = 512


@dataclass(frozen=True)
class NativeLevel:
    """The grid of one level.

    Attributes:
        level: the slide's level.
        width, height: of the level in its pixels.
        tile_width, tile_height: size decoded at once; the last column and row are cut off at the level's edge.
    """

    level: int
    width: int
    height: int
    tile_width: int
    tile_height: int

    @classmethod
    def of(cls, slide: Slide, level: int) -> NativeLevel:
        """The grid that the slide states. Narrow strips are combined into one tile; 512 px if nothing is stated."""
        sides = [_side(slide.properties.get(f"openslide.level[{level}].tile-{name}")) for name in ("width", "height")]
        return cls(level, *slide.level_dimensions[level], *sides)

    @property
    def columns(self) -> int:
        """The number of tiles beside each other."""
        return -(-self.width // self.tile_width)

    def box(self, column: int, row: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of a tile in pixels of the level."""
        left, top = column * self.tile_width, row * self.tile_height
        return left, top, min(left + self.tile_width, self.width), min(top + self.tile_height, self.height)


class NativeTiles:
    """Reads one level's tiles; safe from several threads. Close it after use.

    Attributes:
        grid: the level's grid.
        direct: whether tiles are decoded here, not by OpenSlide.
    """

    def __init__(self, slide: Slide, level: int) -> None:
        self._slide = slide
        self.grid = NativeLevel.of(slide, level)
        self._file = _TiffTiles.of(slide, self.grid)
        if self._file is not None and not self._agrees(self._file):
            self.close()

    @property
    def direct(self) -> bool:
        """Whether tiles are decoded here, not by OpenSlide."""
        return self._file is not None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, column: int, row: int) -> np.ndarray:
        """The pixels of a tile, (height, width, 3) uint8 RGB, cut off at the level's edge.

        On levels above 0 OpenSlide starts at the nearest level-0 pixel, up to half a pixel off the tile's corner.

        Raises:
            SlideError: the pixels cannot be read.
        """
        pixels = self._file.read(column, row) if self._file is not None else None
        if pixels is None:
            return self._by_openslide(column, row)
        left, top, right, bottom = self.grid.box(column, row)
        return pixels[: bottom - top, : right - left]

    def _by_openslide(self, column: int, row: int) -> np.ndarray:
        left, top, right, bottom = self.grid.box(column, row)
        downsample = self._slide.level_downsamples[self.grid.level]
        location = (round(left * downsample), round(top * downsample))
        return np.asarray(self._slide.read_region(location, self.grid.level, (right - left, bottom - top)))

    def _agrees(self, file: _TiffTiles) -> bool:
        """Whether tiles match OpenSlide's.

        They must be equal where OpenSlide's position is exact, as in the corner of any level, and similar elsewhere.
        The largest tiles in bytes are compared, since another picture of the same size would differ in texture.
        """
        from comel.errors import SlideError

        compared = 0
        for column, row in {(0, 0), *file.most_textured(_COMPARED)}:
            found = file.read(column, row)
            left, top, right, bottom = self.grid.box(column, row)
            if found is None or left >= right or top >= bottom:
                continue
            try:
                expected = self._by_openslide(column, row)
            except SlideError:
                return False
            found = found[: bottom - top, : right - left]
            exact = self.grid.level == 0 or (column, row) == (0, 0)
            if not (np.array_equal(found, expected) if exact else _same_picture(found, expected)):
                return False
            compared += 1
        return compared > 0


class _TiffTiles:
    """The stored tiles of one TIFF page: JPEG in RGB or YCbCr, or Aperio's JPEG 2000 in RGB."""

    def __init__(self, path: str, page: TiffPage, grid: NativeLevel) -> None:
        self._offsets, self._lengths = page.stored.dataoffsets, page.stored.databytecounts
        self._shape = (grid.tile_height, grid.tile_width, 3)
        self._columns = -(-page.size[0] // grid.tile_width)
        self._compression, self._photometric = page.compression, page.photometric
        self._tables = page.stored.jpegtables
        # pread takes the position as an argument, so threads need no lock.
        self._descriptor = os.open(path, os.O_RDONLY)

    @classmethod
    def of(cls, slide: Slide, grid: NativeLevel) -> _TiffTiles | None:
        """The page that holds a level, or None if OpenSlide must read it."""
        page = slide.level_pages[grid.level]
        if page is None or page.tile != (grid.tile_width, grid.tile_height) or not _readable(page):
            return None
        return cls(str(slide.path), page, grid)

    def most_textured(self, count: int) -> list[tuple[int, int]]:
        """(column, row) of the largest tiles in bytes."""
        largest = sorted(range(len(self._lengths)), key=lambda index: -self._lengths[index])[:count]
        return [(index % self._columns, index // self._columns) for index in largest]

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, column: int, row: int) -> np.ndarray | None:
        """The whole tile; None if it is absent or does not decode cleanly."""
        import imagecodecs

        index = row * self._columns + column
        length = self._lengths[index]
        # More than the bare pixels is not a compressed tile.
        if not 0 < length <= self._shape[0] * self._shape[1] * 4:
            return None
        data = os.pread(self._descriptor, length, self._offsets[index])
        # The decoder writes into an array of the size that the page states: a tile that states another is refused.
        pixels = np.empty(self._shape, np.uint8)
        try:
            if self._compression == _APERIO_JPEG2000_RGB:
                imagecodecs.jpeg2k_decode(data, out=pixels)
            # The decoder fills in what a truncated tile lacks; OpenSlide reports it as damaged.
            elif data.find(_END_OF_IMAGE) != length - len(_END_OF_IMAGE):
                return None
            else:
                imagecodecs.jpeg8_decode(
                    data, tables=self._tables, colorspace=_COLOUR[self._photometric], outcolorspace="RGB", out=pixels
                )
        except (imagecodecs.Jpeg8Error, imagecodecs.Jpeg2kError, ValueError, RuntimeError):
            return None
        return pixels


_COLOUR: dict[int, Literal["RGB", "YCBCR"]] = {_RGB: "RGB", _YCBCR: "YCBCR"}


def _readable(page: TiffPage) -> bool:
    colours = {_JPEG: (_RGB, _YCBCR), _APERIO_JPEG2000_RGB: (_RGB,)}.get(page.compression, ())
    tiles = -(-page.size[0] // page.tile[0]) * -(-page.size[1] // page.tile[1]) if page.tile else 0
    whole = tiles == len(page.stored.dataoffsets) == len(page.stored.databytecounts)
    return page.photometric in colours and (page.samples, page.bits, page.planar) == (3, 8, 1) and whole


def _same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tiles show the same, allowing a shift by a fraction of a pixel."""
    first, second = (pixels.astype(np.float32) - pixels.mean(axis=(0, 1)) for pixels in (one, other))
    strength = float(np.sqrt((first**2).sum() * (second**2).sum()))
    away = np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max()
    return away < _SAME_MEAN and (strength == 0 or float((first * second).sum()) > _SAME_TEXTURE * strength)


def _side(stated: str | None) -> int:
    try:
        side = int(stated or "")
    except ValueError:
        return _SIDE_WHERE_UNKNOWN
    if not 0 < side <= _LARGEST_SIDE:
        return _SIDE_WHERE_UNKNOWN
    return side * -(-_SMALLEST_SIDE // side)
