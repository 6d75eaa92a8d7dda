"""Whole-slide images through OpenSlide: their resolution, a thumbnail, and exact areas of a level.

Other files are tried as plain images of one level (:mod:`pipelines.slides.plain_image`). A resolution is never
guessed: it comes from the manifest, from the slide, or from the user's assumption if the slide states none. How
coarse a level is, and whether it is read at all, is decided here for all callers (:mod:`pipelines.slides.pyramid`).
Label and macro images are never read, and no picture returned here has the slide's colour profile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from comel.base.text import first_line
from comel.base.units import MPP_RANGE
from comel.errors import SlideError
from pipelines.slides.area import Area
from pipelines.slides.dicom_files import level_mpps, series_beside
from pipelines.slides.plain_image import PlainImage, is_plain_image
from pipelines.slides.pyramid import Stored, true_levels
from pipelines.slides.scanned import picture_pieces, scanned_areas
from pipelines.slides.silence import libraries_silenced
from pipelines.slides.slide_files import file_to_open, slide_files
from pipelines.slides.tiff_checks import check_pages
from pipelines.slides.tiff_pages import TiffPage, pages_of_levels, read_tiff
from pipelines.slides.unreadable import unopened, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Slide", "open_handle", "open_slide"]

_MPP_PLACE = "the manifest column 'mpp' (for a slide given directly: --mpp)"
_MPP_REMEDY = f"state it in {_MPP_PLACE}"
_ASSUME_REMEDY = f"{_MPP_REMEDY}, or give --assume-mpp for all slides that do not state it"
_CACHE_BYTES = 128 << 20

MppSource = Literal["manifest", "slide", "assumed"]


class Slide:
    """An open slide. Use :func:`open_slide`; reading is safe from several threads.

    Attributes:
        path: the file.
        properties: what the file states, under OpenSlide's names.
        level_dimensions: (width, height) in pixels of every level, level 0 first; padding to whole tiles is not
            part of it.
        level_downsamples: level-0 pixels per pixel of every level, infinite for one that is not read because its downsample
            is unknown.
        level_extents: (width, height) of level 0 in pixels of every level, not rounded.
        level_pages: for a plain or Aperio TIFF the page of every level, otherwise None.
        mpp_x, mpp_y: micrometres per pixel of level 0.
        mpp_source: their source: the manifest, the slide, or the user's assumption.
        bounds: (x, y, width, height) of the non-empty region in level-0 pixels if the slide states all four
            ``openslide.bounds-*``, otherwise None.
    """

    def __init__(self, path: Path, mpp: float | None, assume_mpp: float | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._handle = self._opened()
        self.properties: Mapping[str, str] = dict(self._handle.properties)
        self._ratios: tuple[float, ...] = tuple(self._handle.level_downsamples)
        stored, self.level_pages = _stored_levels(path, self.properties, self._handle.level_dimensions, self._ratios)
        levels = true_levels(stored, self.properties.get("openslide.vendor"))
        self.level_dimensions = tuple(level.size for level in levels)
        self.level_downsamples = tuple(level.downsample for level in levels)
        self.level_extents = tuple(level.extent for level in levels)
        self.mpp_x, self.mpp_y, self.mpp_source = _resolution(path, self.properties, mpp, assume_mpp)
        values = [self.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
        self.bounds: tuple[int, ...] | None = None if None in values else tuple(int(str(value)) for value in values)

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.close()

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.level_dimensions[0]

    def facts(self) -> dict[str, Any]:
        """The file's facts: ``format`` (OpenSlide's name of the vendor), ``objective_power``, and of every
        level ``width, height, downsample`` (None for a level that is not read) and ``tile``, (width, height) of its tiles
        if it states them.

        Files also have names, dates and accession numbers in their properties; those are not read.
        """
        properties = self._handle.properties
        tiles = [
            tuple(_number(properties.get(f"openslide.level[{level}].tile-{side}")) for side in ("width", "height"))
            for level in range(len(self.level_dimensions))
        ]
        return {
            "format": properties.get("openslide.vendor", "plain image"),
            "objective_power": _number(properties.get("openslide.objective-power")),
            "levels": [
                {
                    "width": size[0],
                    "height": size[1],
                    "downsample": None if math.isinf(downsample) else downsample,
                    "tile": None if None in tile else [int(side) for side in tile if side is not None],
                }
                for size, downsample, tile in zip(self.level_dimensions, self.level_downsamples, tiles, strict=True)
            ],
        }

    def level_for(self, downsample: float) -> int:
        """The coarsest level that is not coarser than ``downsample`` (level-0 pixels per pixel), or level 0."""
        fitting = [level for level, own in enumerate(self.level_downsamples) if own <= downsample]
        return max(fitting, key=lambda level: self.level_downsamples[level], default=0)

    def thumbnail(self, max_side: int) -> Image:
        """The whole slide as an RGB image whose longer side is at most ``max_side`` pixels; nothing is enlarged.

        Only scanned areas are read; the rest is white. They are read in pieces, so that a slide with a single huge level
        needs no more memory than a piece.

        Raises:
            SlideError: the slide's pixels cannot be read.
        """
        from PIL import Image

        width, height = self.dimensions
        scale = max(1.0, max(width, height) / max_side)
        size = (max(1, round(width / scale)), max(1, round(height / scale)))
        level = self.level_for(min(width / size[0], height / size[1]))
        of_level = self.level_extents[level]
        thumbnail = Image.new("RGB", size, "white")
        areas = scanned_areas(self.properties, self.dimensions)
        for left, top, right, bottom in picture_pieces(areas, self.dimensions, of_level, size):
            x0, x1 = (column * of_level[0] / size[0] for column in (left, right))
            y0, y1 = (row * of_level[1] / size[1] for row in (top, bottom))
            thumbnail.paste(self.read_area(level, (x0, y0, x1, y1), (right - left, bottom - top)), (left, top))
        return thumbnail

    def read_area(self, level: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image:
        """An exact area of a level, resampled to ``size``.

        See :class:`pipelines.slides.area.Area`; an area of ``size`` whole pixels is returned unchanged.

        Args:
            level: the level to read.
            box: (left, top, right, bottom) in pixels of that level, not rounded; cut off at the level's edge.
            size: (width, height) of the result in pixels.

        Raises:
            SlideError: the pixels cannot be read.
        """
        area = Area.of(box, size, self.level_dimensions[level])
        downsample = self.level_downsamples[level]
        location = (round(area.left * downsample), round(area.top * downsample))
        return area.resample(self.read_region(location, level, (area.right - area.left, area.bottom - area.top)))

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image:
        """Pixels of a level as RGB, transparent ones white, without the slide's colour profile.

        Args:
            location: level-0 pixel (x, y) of the top left corner.
            level: the level to read.
            size: (width, height) in pixels of that level.

        Raises:
            SlideError: the pixels cannot be read, even by a fresh handle.
        """
        import openslide

        handle = self._handle
        # OpenSlide locates a place on a level by its own ratio of the sides.
        beside = self._ratios[level] / self.level_downsamples[level]
        location = location if beside in (0.0, 1.0) else (round(location[0] * beside), round(location[1] * beside))
        try:
            pixels = handle.read_region(location, level, size)
        except openslide.OpenSlideError:
            # One bad tile makes a handle permanently unusable. The old one is not closed: another thread may be using it.
            try:
                with self._lock:
                    if self._handle is handle:
                        self._handle = self._opened()
                    handle = self._handle
                pixels = handle.read_region(location, level, size)
            except openslide.OpenSlideError as error:
                said = f"pixels of level {level} at {location} cannot be read ({first_line(error)})"
                raise unopened(self.path, file_to_open(self.path), said, stage="tiles") from None
        return _on_white(pixels)

    def _opened(self) -> Any:
        import openslide

        handle = open_handle(self.path)
        if isinstance(handle, openslide.OpenSlide):
            handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return handle


def open_slide(path: Path, *, mpp: float | None = None, assume_mpp: float | None = None) -> Slide:
    """Open a slide and determine its resolution.

    Args:
        path: any file that OpenSlide reads, the folder of a DICOM series, or a PNG, JPEG or plain TIFF image of at most
            128 Mpx.
        mpp: micrometres per pixel of level 0 that override the slide's own, in x and y (the manifest's column).
        assume_mpp: micrometres per pixel for a slide that does not state it; never overrides the slide's own.

    Raises:
        SlideError: no such file, empty, unreadable, not a slide, a folder of several (stage "open"); no resolution, or
            one outside :data:`MPP_RANGE` (stage "mpp").
    """
    return Slide(Path(path), mpp, assume_mpp)


def open_handle(path: Path) -> Any:
    """The slide with OpenSlide's own interface, or a plain image with the part of it that is used here.

    Raises:
        SlideError: it cannot be opened (stage "open").
    """
    import openslide

    try:
        if not path.exists():
            raise SlideError(f"{path}: no such file", "check the path in the manifest")
        # OpenSlide and Pillow report an unreadable file as one of another format.
        for part in slide_files(path):
            open(part, "rb").close()
        file = file_to_open(path)
        if file.stat().st_size == 0:
            raise SlideError(f"{path}: the file is empty", "copy it again")
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        with libraries_silenced():
            vendor = openslide.OpenSlide.detect_format(file)
            check_pages(path, read_tiff(file), vendor)
            return openslide.OpenSlide(file)
    except openslide.OpenSlideUnsupportedFormatError:
        if is_plain_image(path):
            return PlainImage(path)
        raise unopened(path, file, "not a slide that OpenSlide reads") from None
    except openslide.OpenSlideError as error:
        raise unopened(path, file, f"cannot be opened ({first_line(error)})") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _stored_levels(
    path: Path, properties: Mapping[str, str], dimensions: Sequence[tuple[int, int]], ratios: Sequence[float]
) -> tuple[list[Stored], list[TiffPage | None]]:
    """The levels in the file, with each one's stated resolution and TIFF page."""
    vendor = properties.get("openslide.vendor")
    pages: list[TiffPage | None] = [None] * len(dimensions)
    mpps: list[tuple[float, float] | None] = [None] * len(dimensions)
    if vendor == "dicom":
        mpps = level_mpps(series_beside(file_to_open(path)), dimensions)
    elif vendor is not None:
        pages = pages_of_levels(read_tiff(path), vendor, dimensions)
        mpps = [None if page is None else page.mpp for page in pages]
    stored = [
        Stored(size, ratio, mpp, _tile_of(properties, level), doubtful=_may_be_overview(page, vendor))
        for level, (size, ratio, mpp, page) in enumerate(zip(dimensions, ratios, mpps, pages, strict=True))
    ]
    return stored, pages


def _may_be_overview(page: TiffPage | None, vendor: str | None) -> bool:
    """Whether OpenSlide may have mistaken an overview for a level: a plain TIFF's first page need not be marked reduced."""
    return page is not None and vendor == "generic-tiff" and not page.reduced


def _tile_of(properties: Mapping[str, str], level: int) -> tuple[int, int] | None:
    width, height = (_number(properties.get(f"openslide.level[{level}].tile-{side}")) for side in ("width", "height"))
    return (int(width), int(height)) if width and height and min(width, height) >= 1 else None


def _resolution(path: Path, properties: Any, mpp: float | None, assume_mpp: float | None) -> tuple[float, float, MppSource]:
    def checked(x: float, y: float, source: MppSource, said: str, remedy: str) -> tuple[float, float, MppSource]:
        if all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in (x, y)):
            return x, y, source
        stated = f"{x:g}" if x == y else f"{x:g} x {y:g}"
        what = f"{path}: {said} {stated} um/px, which no slide has ({MPP_RANGE[0]:g} to {MPP_RANGE[1]:g})"
        raise SlideError(what, remedy, stage="mpp")

    if mpp is not None:
        return checked(mpp, mpp, "manifest", "the manifest states", f"correct {_MPP_PLACE}")
    own = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    if own[0] is not None and own[1] is not None:
        remedy = f"{_MPP_REMEDY}; --assume-mpp does not override what a slide states"
        return checked(own[0], own[1], "slide", "the file states", remedy)
    if assume_mpp is not None:
        return checked(assume_mpp, assume_mpp, "assumed", "--assume-mpp states", "correct --assume-mpp")
    raise SlideError(f"{path}: the slide states no micrometres per pixel", _ASSUME_REMEDY, stage="mpp")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _on_white(pixels: Image) -> Image:
    from PIL import Image

    if pixels.getchannel("A").getextrema() == (255, 255):
        opaque = pixels.convert("RGB")
        # OpenSlide attaches the profile to its regions, and a PNG made of them would keep it.
        opaque.info.clear()
        return opaque
    opaque = Image.new("RGB", pixels.size, "white")
    opaque.paste(pixels, mask=pixels)
    return opaque
