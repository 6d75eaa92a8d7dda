"""The pages of a TIFF, and which of them are the levels of a slide.

Which page is a level follows OpenSlide's rule: of an Aperio file every tiled page, of a plain pyramid the first page and every
tiled one that calls itself a reduced image, from wide to narrow.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Tiff", "is_reduced", "least_size", "level_candidates", "page_mpp", "pages_of_levels", "read_tiff", "tag_value"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MICROMETRES = {2: 25_400.0, 3: 10_000.0}
_OF_ONE_PICTURE = "YXS"


@dataclass(frozen=True)
class Tiff:
    """What a TIFF holds.

    Attributes:
        pages: its pages as tifffile describes them; empty if the file is no TIFF or its pages cannot be listed.
        planes: number of pictures along ``Z`` (focus), ``T`` (time), ``C`` (channel) and other axes that OME, ImageJ or
            tifffile describe, if more than one.
    """

    pages: Sequence[Any] = ()
    planes: Mapping[str, int] = field(default_factory=dict)


def read_tiff(path: Path) -> Tiff:
    """List a TIFF's pages; empty if the file is not a TIFF."""
    import tifffile

    # It warns of much that does not matter here.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with open(path, "rb") as stream:
            if stream.read(4) not in _MAGIC:
                return Tiff()
        with tifffile.TiffFile(path) as file:
            pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
            described = file.is_ome or file.is_imagej or file.is_shaped
            series = file.series if described else []
            sizes = dict(zip(series[0].axes, series[0].shape, strict=True)) if len(series) else {}
    except Exception:  # tifffile raises errors of many kinds; whoever opens the file says what is wrong with it
        return Tiff()
    return Tiff(pages, {axis: size for axis, size in sizes.items() if axis not in _OF_ONE_PICTURE and size > 1})


def least_size(path: Path) -> int:
    """The bytes that a TIFF must have for its pages to be there and their pixels; 0 if the file is not a TIFF.

    Raises:
        OSError: it cannot be read.
    """
    pages = read_tiff(path).pages
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


def level_candidates(tiff: Tiff, vendor: str | None) -> list[Any]:
    """The pages that OpenSlide takes for levels, finest first.

    Args:
        tiff: the file's pages.
        vendor: OpenSlide's name of the format; none are known but those of ``aperio`` and ``generic-tiff``.
    """
    tiled = [page for page in tiff.pages if page.is_tiled]
    if vendor == "aperio":
        return tiled
    if vendor == "generic-tiff":
        levels = [page for page in tiled if page.index == 0 or is_reduced(page)]
        return sorted(levels, key=lambda page: -int(page.imagewidth))
    return []


def pages_of_levels(tiff: Tiff, vendor: str | None, dimensions: Sequence[tuple[int, int]]) -> list[Any | None]:
    """The page of each level; None for all if the pages are not those that OpenSlide found.

    Args:
        tiff: the file's pages.
        vendor: OpenSlide's name of the format.
        dimensions: (width, height) of each level according to OpenSlide.
    """
    pages = level_candidates(tiff, vendor)
    if [(page.imagewidth, page.imagelength) for page in pages] != list(dimensions):
        return [None] * len(dimensions)
    return list(pages)


def is_reduced(page: Any) -> bool:
    """Whether the page calls itself a reduced version of another one."""
    return bool(page.subfiletype & 1)


def page_mpp(page: Any) -> tuple[float, float] | None:
    """Micrometres per pixel (x, y) that a page states for itself; None if it states none, or none with a unit."""
    unit = _MICROMETRES.get(tag_value(page, "ResolutionUnit"))
    try:
        x, y = (float(over) / float(under) for over, under in (tag_value(page, f"{axis}Resolution") for axis in "XY"))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return None if unit is None or x <= 0 or y <= 0 else (unit / x, unit / y)


def tag_value(page: Any, name: str) -> Any:
    """The value of a page's tag; None if it has none."""
    tag = page.tags.get(name)
    return None if tag is None else tag.value
