"""The pages of a TIFF, and which of them are the levels of a slide.

Levels follow OpenSlide's rule: in an Aperio file every tiled page, in a plain pyramid the first page and every
tiled one marked as a reduced image, from wide to narrow.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.slides.silence import libraries_silenced

__all__ = ["Tiff", "TiffPage", "least_size", "level_candidates", "pages_of_levels", "read_tiff"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MICROMETRES = {2: 25_400.0, 3: 10_000.0}
_OF_ONE_PICTURE = "YXS"


@dataclass(frozen=True)
class TiffPage:
    """A page's tags.

    Attributes:
        number: the page's number, from 0.
        size: (width, height) in pixels.
        tile: (width, height) of its tiles; None if it is stored in strips.
        depth: planes of a volume that is stored as one page; 1 for a picture.
        reduced: whether it is marked as a reduced version of another page.
        mask: whether it is marked as a mask of another page.
        compression, photometric, planar: codes of the TIFF standard.
        samples: channels of a pixel.
        extra: the kinds of channels beyond its colours, as codes of the TIFF standard; 1 and 2 are transparency.
        bits: bits of a sample, the largest; 0 if not stated, which means 1.
        sample_kind: code of the TIFF standard: 1 unsigned, 2 signed, 3 floating-point, 4 undefined, 5 and 6 complex.
        mpp: micrometres per pixel (x, y); None if not stated, or stated without a unit.
        description: its text.
        stored: tifffile's page.
    """

    number: int
    size: tuple[int, int]
    tile: tuple[int, int] | None
    depth: int
    reduced: bool
    mask: bool
    compression: int
    photometric: int
    planar: int
    samples: int
    extra: tuple[int, ...]
    bits: int
    sample_kind: int
    mpp: tuple[float, float] | None
    description: str
    stored: Any = field(repr=False)

    @classmethod
    def of(cls, page: Any) -> TiffPage:
        """A tifffile page; its values come from the file and may have any type.

        Raises:
            TypeError, ValueError: a value is not a number.
        """
        kind, tile = int(page.subfiletype or 0), (int(page.tilewidth or 0), int(page.tilelength or 0))
        return cls(
            number=int(page.index),
            size=(int(page.imagewidth), int(page.imagelength)),
            tile=tile if min(tile) > 0 else None,
            depth=int(page.imagedepth or 1),
            reduced=bool(kind & 1),
            mask=bool(kind & 4),
            compression=int(page.compression),
            photometric=int(page.photometric or 0),
            planar=int(page.planarconfig or 1),
            samples=int(page.samplesperpixel),
            extra=tuple(int(code) for code in np.ravel(page.extrasamples or ())),
            bits=int(np.max(page.bitspersample)) if "BitsPerSample" in page.tags else 0,
            sample_kind=int(np.max(page.sampleformat or 1)),
            mpp=_mpp(page),
            description=str(page.description),
            stored=page,
        )

    @property
    def area(self) -> int:
        """The page's area in pixels."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Tiff:
    """The content of a TIFF.

    Attributes:
        pages: its pages; none if the file is not a TIFF or its pages cannot be listed.
        planes: number of pictures along ``Z`` (focus), ``T`` (time), ``C`` (channel) and other axes that OME, ImageJ or
            tifffile describe, if more than one.
    """

    pages: Sequence[TiffPage] = ()
    planes: Mapping[str, int] = field(default_factory=dict)


def read_tiff(path: Path) -> Tiff:
    """List a TIFF's pages; none if the file is not a TIFF."""
    import tifffile

    try:
        with open(path, "rb") as stream:
            if stream.read(4) not in _MAGIC:
                return Tiff()
        with libraries_silenced(), tifffile.TiffFile(path) as file:
            pages = [TiffPage.of(page) for page in file.pages if isinstance(page, tifffile.TiffPage)]
            described = file.is_ome or file.is_imagej or file.is_shaped
            series = file.series if described else []
            sizes = dict(zip(series[0].axes, series[0].shape, strict=True)) if len(series) else {}
            planes = {axis: int(size) for axis, size in sizes.items() if axis not in _OF_ONE_PICTURE and size > 1}
    except Exception:  # tifffile raises many kinds of errors; opening the file then reports what is wrong
        return Tiff()
    return Tiff([page for page in pages if page.area > 0], planes)


def least_size(path: Path) -> int:
    """The bytes that a TIFF needs to hold its pages and their pixels; 0 if the file is not a TIFF.

    Raises:
        OSError: it cannot be read.
    """
    pages = [page.stored for page in read_tiff(path).pages]
    if pages:
        parts = (part for page in pages for part in zip(page.dataoffsets, page.databytecounts, strict=False))
        return max(map(sum, parts), default=0)
    with open(path, "rb") as stream:
        head = stream.read(16).ljust(16, b"\0")
    if head[:4] not in _MAGIC:
        return 0
    order, big = ("<" if head[:2] == b"II" else ">"), head[2:4] in (b"+\0", b"\0+")
    (first,) = struct.unpack(f"{order}Q", head[8:]) if big else struct.unpack(f"{order}I", head[4:8])
    return int(first) + 2


def level_candidates(tiff: Tiff, vendor: str | None) -> list[TiffPage]:
    """The pages that OpenSlide uses as levels, finest first.

    Args:
        tiff: the file's pages.
        vendor: OpenSlide's name of the format; only ``aperio`` and ``generic-tiff`` are known.
    """
    tiled = [page for page in tiff.pages if page.tile is not None]
    if vendor == "aperio":
        return tiled
    if vendor == "generic-tiff":
        return sorted((page for page in tiled if page.number == 0 or page.reduced), key=lambda page: -page.size[0])
    return []


def pages_of_levels(tiff: Tiff, vendor: str | None, dimensions: Sequence[tuple[int, int]]) -> list[TiffPage | None]:
    """The page of each level; None for all if the pages are not those that OpenSlide found.

    Args:
        tiff: the file's pages.
        vendor: OpenSlide's name of the format.
        dimensions: (width, height) of each level according to OpenSlide.
    """
    pages = level_candidates(tiff, vendor)
    return list(pages) if [page.size for page in pages] == list(dimensions) else [None] * len(dimensions)


def _mpp(page: Any) -> tuple[float, float] | None:
    tags = [page.tags.get(name) for name in ("ResolutionUnit", "XResolution", "YResolution")]
    if any(tag is None for tag in tags):
        return None
    unit = _MICROMETRES.get(int(tags[0].value))
    try:
        x, y = (float(tag.value[0]) / float(tag.value[1]) for tag in tags[1:])
    except (TypeError, IndexError, ZeroDivisionError):
        return None
    return None if unit is None or x <= 0 or y <= 0 else (unit / x, unit / y)
