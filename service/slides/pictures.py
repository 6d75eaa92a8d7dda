"""Pictures of slides: a slide's facts, its tiles in DeepZoom's numbering, and thumbnails; decoded in child processes.

DeepZoom halves the level-0 plane until one pixel is left: level ``max_level`` is the plane itself, and tile ``(column, row)``
of a level covers ``tile_size`` of its pixels per side, with ``overlap`` more towards each neighbour. The plane is never
cropped to the slide's bounds, so a picture's coordinates are those of the maps.

Decoding runs code of many vendors' formats, so it happens in processes with limits of memory and time that are restarted
when they hang or crash. Label and macro images are never opened.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.base.killable import Fault, WorkerFailure
from comel.base.workers import WorkerPool, failure
from comel.errors import SlideError
from pipelines.slides.slide_files import slide_files
from pipelines.slides.unreadable import CONVERT, COPY_OR_CONVERT
from service.errors import NotFoundError, NotReadyError, no_worker

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide

__all__ = ["SlideFacts", "SlidePictures", "TileGrid"]

TILE_SIZE = 512
OVERLAP = 1
MAX_SOURCE_PIXELS = 32 << 20
MEMORY_BYTES = 2 << 30
CALL_SECONDS = 30.0
WAIT_SECONDS = 60.0
OPEN_SLIDES = 6
JPEG_QUALITY = 85
MAX_THUMBNAIL = 2048


@dataclass(frozen=True)
class SlideFacts:
    """What a viewer needs of a slide.

    Attributes:
        width, height: of level 0 in pixels.
        mpp_x, mpp_y: micrometres per pixel of level 0, None if the slide states none.
        bounds: (x, y, width, height) of the part that was scanned, in level-0 pixels, or None for all of it.
        min_level, max_level: DeepZoom levels that are served; coarser ones would need too many pixels.
    """

    width: int
    height: int
    mpp_x: float | None
    mpp_y: float | None
    bounds: tuple[int, int, int, int] | None
    min_level: int
    max_level: int


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one DeepZoom level of a plane of ``width`` x ``height`` level-0 pixels."""

    width: int
    height: int
    level: int

    @property
    def scale(self) -> int:
        """Level-0 pixels per pixel of the level."""
        return 1 << (max_level(self.width, self.height) - self.level)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the level in pixels."""
        return math.ceil(self.width / self.scale), math.ceil(self.height / self.scale)

    def box(self, column: int, row: int) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) of a tile in the level's pixels, None if there is none."""
        width, height = self.size
        left, top = column * TILE_SIZE, row * TILE_SIZE
        if not (0 <= left < width and 0 <= top < height):
            return None
        right, bottom = min(width, left + TILE_SIZE + OVERLAP), min(height, top + TILE_SIZE + OVERLAP)
        return max(0, left - OVERLAP), max(0, top - OVERLAP), right, bottom


class SlidePictures:
    """Makes pictures of slide files. Safe from several threads; a call waits for one of the processes.

    Args:
        processes: the number of slides decoded at once.
    """

    def __init__(self, processes: int = 2) -> None:
        self.processes = processes
        self._pool = WorkerPool(processes, memory_bytes=MEMORY_BYTES)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def facts(self, path: Path) -> SlideFacts:
        """The slide's facts.

        Raises:
            SlideError: it cannot be opened, or not within the limits of memory and time.
            NotReadyError: all processes are busy for too long.
        """
        facts: SlideFacts = self._call(read_facts, path)
        return facts

    def tile(self, path: Path, level: int, column: int, row: int) -> bytes:
        """A tile as JPEG.

        Raises:
            NotFoundError: there is no such tile.
            SlideError, NotReadyError: as :meth:`facts`.
        """
        content: bytes | None = self._call(draw_tile, path, level, column, row)
        if content is None:
            raise NotFoundError("the slide has no such tile", "GET /v1/slides/{slide} says which levels there are")
        return content

    def thumbnail(self, path: Path, width: int) -> bytes:
        """The whole level-0 plane as JPEG, ``width`` pixels wide or its own width if that is less.

        Raises:
            SlideError, NotReadyError: as :meth:`facts`.
        """
        content: bytes = self._call(draw_thumbnail, path, width)
        return content

    def _call(self, function: Callable[..., Any], path: Path, *arguments: Any) -> Any:
        try:
            return self._pool.call(function, path, *arguments, timeout=CALL_SECONDS, wait=WAIT_SECONDS)
        except SlideError as error:
            # The location must not be in the answer.
            raise SlideError(error.what.replace(str(path), path.name), error.remedy, stage=error.stage) from None
        except WorkerFailure as error:
            said = no_worker("") | {
                Fault.BUSY: NotReadyError("all decoders are busy", "ask again in a minute"),
                Fault.LATE: SlideError(f"{path.name}: takes longer than {CALL_SECONDS:g} s to decode", CONVERT),
                Fault.DIED: SlideError(f"{path.name}: breaks the decoder", COPY_OR_CONVERT),
                Fault.DEFECT: SlideError(f"{path.name}: cannot be decoded ({error.kind})", CONVERT),
            }
            raise failure(error, path.name, said) from None


def version_of(path: Path) -> str:
    """A tag for the slide's present content, from the sizes and modification times of its files."""
    return hashlib.blake2b(f"{_state(path)} {TILE_SIZE}".encode(), digest_size=12).hexdigest()


def _state(path: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """Of all files that a slide consists of: name, size, and when and where they were written. A copy may have the time of
    change of the file that it replaces, but not all of these."""
    return tuple(
        (part.name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
        for part in slide_files(path)
        for about in [part.stat()]
    )


def max_level(width: int, height: int) -> int:
    """The DeepZoom level that is the level-0 plane itself."""
    return math.ceil(math.log2(max(width, height, 1)))


# The code below runs in the child processes.

_opened: OrderedDict[tuple[Path, object], Slide] = OrderedDict()


def read_facts(path: Path) -> SlideFacts:
    slide = _open(path)
    width, height = slide.dimensions
    stated = slide.mpp_source == "slide"
    levels = range(max_level(width, height) + 1)
    cheap = (level for level in levels if _source(slide, TileGrid(width, height, level))[1] <= MAX_SOURCE_PIXELS)
    return SlideFacts(
        width=width,
        height=height,
        mpp_x=slide.mpp_x if stated else None,
        mpp_y=slide.mpp_y if stated else None,
        bounds=None if slide.bounds is None else (slide.bounds[0], slide.bounds[1], slide.bounds[2], slide.bounds[3]),
        min_level=next(cheap, levels[-1]),
        max_level=levels[-1],
    )


def draw_tile(path: Path, level: int, column: int, row: int) -> bytes | None:
    slide = _open(path)
    width, height = slide.dimensions
    if not 0 <= level <= max_level(width, height):
        return None
    grid = TileGrid(width, height, level)
    box, (source, pixels) = grid.box(column, row), _source(slide, grid)
    if box is None or pixels > MAX_SOURCE_PIXELS:
        return None
    ratio_x, ratio_y = (
        own * grid.scale / whole for own, whole in zip(slide.level_extents[source], (width, height), strict=True)
    )
    area = (box[0] * ratio_x, box[1] * ratio_y, box[2] * ratio_x, box[3] * ratio_y)
    return _jpeg(slide.read_area(source, area, (box[2] - box[0], box[3] - box[1])))


def draw_thumbnail(path: Path, width: int) -> bytes:
    slide = _open(path)
    longer = max(1.0, slide.dimensions[1] / slide.dimensions[0])
    return _jpeg(slide.thumbnail(min(MAX_THUMBNAIL, round(width * longer))))


def _source(slide: Slide, grid: TileGrid) -> tuple[int, float]:
    """The slide's own level that a DeepZoom level is made from, and how many of its pixels one tile takes."""
    source = slide.level_for(grid.scale)
    shrink = grid.scale / slide.level_downsamples[source]
    shown = (min(TILE_SIZE, side) for side in grid.size)
    return source, math.prod(side * shrink for side in shown)


def _open(path: Path) -> Slide:
    from pipelines.slides.slide import open_slide

    key = (path, _state(path))
    if key in _opened:
        _opened.move_to_end(key)
        return _opened[key]
    # A slide without a resolution can still be viewed; it gets no scale bar.
    slide = open_slide(path, assume_mpp=1.0)
    _opened[key] = slide
    while len(_opened) > OPEN_SLIDES:
        _opened.popitem(last=False)[1].__exit__(None, None, None)
    return slide


def _jpeg(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
