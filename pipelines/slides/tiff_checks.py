"""TIFFs that OpenSlide or Pillow would silently misread, or refuse as damaged, refused here with the reason.

These are: a scan behind a smaller picture; channels, focal planes, time points and scenes in pages of their own; samples other
than unsigned ones of at most 8 bits; channels beyond the colours; compressions that are not decoded.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

from comel.errors import SlideError
from pipelines.slides.tiff_pages import Tiff, TiffPage, level_candidates

__all__ = ["check_pages"]

_DECODED = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 50000}
"""Compressions that OpenSlide and Pillow decode: none, CCITT, LZW, JPEG, deflate, PackBits, Zstandard."""
_ALSO_DECODED = {"aperio": {33003, 33005}, None: {34925}}
"""OpenSlide decodes Aperio's JPEG 2000, Pillow (which has no vendor) LZMA."""
_NAMES = {"WEBP": "WebP", "JPEGXR": "JPEG XR", "JPEGXL": "JPEG XL", "JPEG2000": "JPEG 2000", "JP2000": "JPEG 2000"}
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Samples of a pixel's colour, by photometric interpretation."""
_SAMPLES = {2: "signed", 3: "floating-point"}
_UNSIGNED = (1, 4)
_ALPHA = (1, 2)
_SCENE = 0.3
"""Share of the first picture's area above which another tiled page counts as a scene, not as an overview or a level."""
_EIGHT_BITS = "save it with 8 bits per channel, scaled by the range that the scanner uses"


def check_pages(path: Path, tiff: Tiff, vendor: str | None) -> None:
    """Refuse a TIFF from which a wrong picture or wrong pixels would be read.

    Args:
        path: the file, for messages.
        tiff: its pages.
        vendor: OpenSlide's name of the format, None if it does not read the file. Only plain and Aperio TIFFs are
            checked: OpenSlide knows more about the others than the pages tell.

    Raises:
        SlideError: it is one of the kinds that this module lists.
    """
    if not tiff.pages or vendor not in ("aperio", "generic-tiff", None):
        return
    levels = level_candidates(tiff, vendor) or list(tiff.pages[:1])
    _check_pictures(path, tiff, vendor, levels)
    for page in levels:
        _check_samples(path, page, vendor)
        _check_compression(path, page, vendor)


def _check_pictures(path: Path, tiff: Tiff, vendor: str | None, levels: list[TiffPage]) -> None:
    """Refuse a file of several pictures whose levels show only one."""
    first = max(levels, key=lambda page: page.area)
    others = [page for page in tiff.pages if page is not first and not (page.reduced or page.mask)]
    largest = max(others, key=lambda page: page.area, default=first)
    if vendor != "aperio" and largest.area > first.area:
        what = f"{path}: its largest picture, {_said(largest)}, is page {largest.number + 1}, behind one of {_said(first)}"
        raise SlideError(what, f"save page {largest.number + 1} as a separate slide")
    _check_planes(path, tiff, first, [page for page in tiff.pages if page.tile is not None or vendor is None])
    if vendor == "aperio":
        if any(finer.area < coarser.area for finer, coarser in pairwise(levels)):
            raise _several(path, "levels that are not ordered from fine to coarse, as those of several scans", "scan")
        return
    ratios = [first.size[0] / page.size[0] + first.size[1] / page.size[1] for page in levels]
    if any(finer > coarser for finer, coarser in pairwise(ratios)):
        shape = first.size[0] / first.size[1]
        odd = max(levels, key=lambda page: abs(math.log(page.size[0] / page.size[1] / shape)))
        what = f"{path}: page {odd.number + 1}, {_said(odd)}, is marked as a reduced image but differs from the slide in shape"
        raise SlideError(what, "save the slide without that page")
    scenes = [page for page in others if page.tile is not None and page.area > _SCENE * first.area]
    if scenes:
        raise _several(path, f"{1 + len(scenes)} pictures (pages {_numbers([first, *scenes])}): scenes of one glass", "scene")


def _check_planes(path: Path, tiff: Tiff, first: TiffPage, pages: list[TiffPage]) -> None:
    """Refuse focal planes, time points, channels and anything else of the first picture's size."""
    same = [page for page in pages if page.size == first.size and not page.mask]
    if first.depth > 1 or any("OffsetZ" in page.description for page in same[1:]):
        raise _several(path, f"{max(first.depth, len(same))} focal planes", "plane")
    for axis, several, one in (("Z", "focal planes", "plane"), ("T", "time points", "time point")):
        if axis in tiff.planes:
            raise _several(path, f"{tiff.planes[axis]} {several}", one)
    if first.samples == 1 and (len(same) > 1 or "C" in tiff.planes):
        what = f"a TIFF of {len(same)} pages with one channel each" if len(same) > 1 else f"{tiff.planes['C']} channels"
        remedy = "save red, green and blue as one page with 8 bits per channel; fluorescence is not read"
        raise SlideError(f"{path}: {what}", remedy)
    if len(same) > 1:
        raise _several(path, f"{len(same)} pictures of {_said(first)} (pages {_numbers(same)}): planes or scenes", "picture")
    if tiff.planes and first.samples == 1:
        raise _several(path, f"{max(tiff.planes.values())} pictures in one page", "picture")


def _check_samples(path: Path, page: TiffPage, vendor: str | None) -> None:
    if page.sample_kind not in _UNSIGNED:
        kind = _SAMPLES.get(page.sample_kind, "complex")
        raise SlideError(f"{path}: samples that are {page.bits}-bit {kind} numbers", _EIGHT_BITS)
    if page.bits > 8:
        raise SlideError(f"{path}: samples of {page.bits} bits", _EIGHT_BITS)
    if page.bits == 0 and vendor is not None:
        raise SlideError(f"{path}: samples of 1 bit", "save it as RGB with 8 bits per channel")
    colours = _COLOURS.get(page.photometric, page.samples)
    extra = page.samples - colours
    unknown = extra > 1 or (extra == 1 and not any(code in _ALPHA for code in page.extra))
    # libtiff treats an unknown channel as transparency, and transparent pixels are white here. Pillow drops
    # channels besides red, green and blue.
    if unknown and (vendor is not None or (colours == 1 and extra > 1)):
        what = f"{page.samples} channels, of which {colours} are stated to be colour"
        raise SlideError(f"{path}: {what}", "save it as RGB with three channels of 8 bits")


def _check_compression(path: Path, page: TiffPage, vendor: str | None) -> None:
    from tifffile import COMPRESSION

    if page.compression in _DECODED | _ALSO_DECODED.get(vendor, set()):
        return
    known = page.compression in list(COMPRESSION)
    own = COMPRESSION(page.compression).name if known else f"method {page.compression}"
    name = next((name for part, name in _NAMES.items() if part in own), own)
    raise SlideError(f"{path}: compressed as {name}, which is not decoded here", "convert it to a tiled pyramidal TIFF of JPEG")


def _several(path: Path, what: str, one: str) -> SlideError:
    return SlideError(f"{path}: {what}", f"export the intended {one} as a separate slide")


def _said(page: TiffPage) -> str:
    return f"{page.size[0]} x {page.size[1]} px"


def _numbers(pages: list[TiffPage]) -> str:
    return ", ".join(str(page.number + 1) for page in pages[:4]) + (", ..." if len(pages) > 4 else "")
