"""TIFFs that OpenSlide or Pillow would misread in silence, or refuse as damaged, refused here by name.

These are: a scan behind a smaller picture; channels, focal planes, time points and scenes in pages of their own; samples other
than unsigned ones of at most 8 bits; channels beyond the colours; compressions that are not decoded.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from comel.errors import SlideError
from pipelines.slides.tiff_pages import Tiff, is_reduced, level_candidates, tag_value

__all__ = ["check_pages"]

_DECODED = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 50000}
"""Compressions that OpenSlide and Pillow decode: none, CCITT, LZW, JPEG, deflate, PackBits, Zstandard."""
_ALSO_DECODED = {"aperio": {33003, 33005}, None: {34925}}
"""OpenSlide decodes Aperio's JPEG 2000, Pillow (which has no vendor) LZMA."""
_NAMES = {"WEBP": "WebP", "JPEGXR": "JPEG XR", "JPEGXL": "JPEG XL", "JPEG2000": "JPEG 2000", "JP2000": "JPEG 2000"}
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Samples that the colour of a pixel takes, by photometric interpretation."""
_SAMPLES = {2: "signed", 3: "floating-point"}
_UNSIGNED = (1, 4)
_ALPHA = (1, 2)
_SCENE = 0.3
"""Share of the first picture's area above which another tiled page is taken for a scene, and not for an overview or a level."""
_EIGHT_BITS = "save it with 8 bits a channel, scaled by the range that the scanner uses"


def check_pages(path: Path, tiff: Tiff, vendor: str | None) -> None:
    """Refuse a TIFF of which another picture than the slide would be read, or other pixels than it has.

    Args:
        path: for messages.
        tiff: its pages.
        vendor: OpenSlide's name of the format, None if it reads the file not at all. Only plain TIFFs and Aperio's are looked
            at: of the others OpenSlide knows more than the pages say.

    Raises:
        SlideError: it is one of those that this module names.
    """
    if not tiff.pages or vendor not in ("aperio", "generic-tiff", None):
        return
    levels = level_candidates(tiff, vendor) or list(tiff.pages[:1])
    _check_planes(path, tiff, vendor, levels)
    for page in levels:
        _check_samples(path, page, vendor)
        _check_compression(path, page, vendor)


def _check_planes(path: Path, tiff: Tiff, vendor: str | None, levels: list[Any]) -> None:
    first = max(levels, key=_area)
    pages = [page for page in tiff.pages if page.is_tiled or vendor is None]
    same = [page for page in pages if _size(page) == _size(first)]
    depth = int(getattr(first, "imagedepth", 1) or 1)
    if depth > 1 or any("OffsetZ" in page.description for page in same[1:]):
        raise _several(path, f"{max(depth, len(same))} focal planes", "plane")
    for axis, several, one in (("Z", "focal planes", "plane"), ("T", "time points", "time point")):
        if axis in tiff.planes:
            raise _several(path, f"{tiff.planes[axis]} {several}", one)
    if first.samplesperpixel == 1 and (len(same) > 1 or "C" in tiff.planes):
        what = f"a TIFF of {len(same)} pages with one channel each" if len(same) > 1 else f"{tiff.planes['C']} channels"
        remedy = "save red, green and blue as one page with 8 bits a channel; fluorescence is not read"
        raise SlideError(f"{path}: {what}", remedy)
    for count in tiff.planes.values():
        if len(same) == 1 and first.samplesperpixel == 1:
            raise _several(path, f"{count} pictures in one page", "picture")
    if len(same) > 1:
        raise _several(path, f"{len(same)} pictures of {_said(first)} (pages {_numbers(same)}), such as planes", "picture")
    if vendor == "aperio":
        if any(_area(finer) < _area(coarser) for finer, coarser in pairwise(levels)):
            raise _several(path, "levels that are not ordered from fine to coarse, as those of several scans", "scan")
        return
    others = [page for page in tiff.pages if page is not first and not is_reduced(page)]
    largest = max(others, key=_area, default=first)
    if _area(largest) > _area(first):
        what = f"{path}: its largest picture, {_said(largest)}, is page {largest.index + 1}, behind one of {_said(first)}"
        raise SlideError(what, f"save page {largest.index + 1} as a slide of its own")
    scenes = [page for page in others if page.is_tiled and _area(page) > _SCENE * _area(first)]
    if scenes:
        raise _several(path, f"{1 + len(scenes)} pictures (pages {_numbers([first, *scenes])}), such as scenes", "scene")


def _check_samples(path: Path, page: Any, vendor: str | None) -> None:
    bits = max(page.bitspersample) if isinstance(page.bitspersample, tuple) else int(page.bitspersample)
    kind = int(max(page.sampleformat) if isinstance(page.sampleformat, tuple) else page.sampleformat or 1)
    if kind not in _UNSIGNED:
        raise SlideError(f"{path}: samples that are {bits}-bit {_SAMPLES.get(kind, 'complex')} numbers", _EIGHT_BITS)
    if bits > 8:
        raise SlideError(f"{path}: samples of {bits} bits, and no word on how many of them are used", _EIGHT_BITS)
    if vendor is None:
        return
    if tag_value(page, "BitsPerSample") is None:
        raise SlideError(f"{path}: samples of 1 bit", "save it as RGB with 8 bits a channel")
    colours = _COLOURS.get(int(page.photometric), page.samplesperpixel)
    extra = page.samplesperpixel - colours
    # libtiff takes a channel that it does not know for transparency, and what is transparent is white here.
    if extra > 1 or (extra == 1 and not any(int(kind) in _ALPHA for kind in page.extrasamples)):
        what = f"{page.samplesperpixel} channels, of which {colours} are said to be colour"
        raise SlideError(f"{path}: {what}", "save it as RGB with three channels of 8 bits")


def _check_compression(path: Path, page: Any, vendor: str | None) -> None:
    from tifffile import COMPRESSION

    code = int(page.compression)
    if code in _DECODED | _ALSO_DECODED.get(vendor, set()):
        return
    own = COMPRESSION(code).name if code in list(COMPRESSION) else f"method {code}"
    name = next((name for part, name in _NAMES.items() if part in own), own)
    raise SlideError(f"{path}: compressed as {name}, which is not decoded here", "convert it to a tiled pyramidal TIFF of JPEG")


def _several(path: Path, what: str, one: str) -> SlideError:
    return SlideError(f"{path}: {what}", f"export the {one} that is meant as a slide of its own")


def _area(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _size(page: Any) -> tuple[int, int]:
    return int(page.imagewidth), int(page.imagelength)


def _said(page: Any) -> str:
    return f"{page.imagewidth} x {page.imagelength} px"


def _numbers(pages: list[Any]) -> str:
    return ", ".join(str(page.index + 1) for page in pages[:4]) + (", ..." if len(pages) > 4 else "")
