"""The slides of the slide folders: a list, each one's facts, and its pixels for a viewer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter

from service.access.gate import allow
from service.db.cursors import Limit, NameCursor, page_of
from service.errors import NotFoundError
from service.http.conditional import is_current
from service.http.request_state import audited, backend_of, key_of
from service.http.responses import UNCHANGED, Responses, file_answer, guarded, problems
from service.http.slide_schemas import SlideAnswer, SlideEntry, SlideList
from service.ids import EXAMPLE_SLIDE
from service.slides.finder import SlideFiles
from service.slides.folders import is_slide_id
from service.slides.pictures import OVERLAP, TILE_SIZE, SlidePictures, version_of

__all__ = ["Noted", "router"]

KEPT = "private, max-age=31536000, immutable"
"""Caching of a picture whose URL names the slide's version."""
ASKED_AGAIN = "private, no-cache"
READS_NOTED_SECONDS = 600.0
"""Seconds between two audit log lines about one key viewing one slide."""

router = APIRouter(prefix="/v1/slides", tags=["slides"], responses=guarded(422))

_JPEG: Responses = {
    **file_answer("image/jpeg", "The picture; its ETag is for `If-None-Match`."),
    **UNCHANGED,
    **problems(404),
}
Prefix = Annotated[
    str | None,
    Query(max_length=256, description="only slides whose name starts with this, in any letter case", examples=["slide-1"]),
]
SlideId = Annotated[str, PathParameter(description="a slide's id", examples=[EXAMPLE_SLIDE])]
Level = Annotated[int, PathParameter(ge=0, le=2**31, description="DeepZoom level, 0 the coarsest", examples=[14])]
Column = Annotated[int, PathParameter(ge=0, le=2**31, description="column of the tile, from the left", examples=[3])]
Row = Annotated[int, PathParameter(ge=0, le=2**31, description="row of the tile, from the top", examples=[5])]
Version = Annotated[
    str | None,
    Query(
        max_length=64,
        description="the slide's version from GET /v1/slides/{slide}: a browser may then cache the picture",
        examples=["9b0d1f4c3a5e7f2011aa22bb"],
    ),
]
Width = Annotated[int, Query(ge=32, le=2048, description="width in pixels", examples=[256])]


@router.get("", summary="Slides of the slide folders", operation_id="list_slides", dependencies=[allow("read")])
def slides(request: Request, prefix: Prefix = None, limit: Limit = 100, cursor: NameCursor = None) -> SlideList:
    """By file name; `next` is the cursor of the next page. A folder of DICOM files is one slide.

    Files behind symbolic links or with names that are not text are not listed; `unlisted` is their number.
    """
    folders = _files(request).folders
    with audited(request, "read", slide=None, part="list"):
        listed = folders.listing()
    if prefix:
        listed = [slide for slide in listed if slide.name.casefold().startswith(prefix.casefold())]
    items, following = page_of(listed, limit, cursor, key=lambda slide: (slide.name, slide.id))
    return SlideList(
        items=[SlideEntry(id=one.id, name=one.name, root=one.root, size_bytes=one.size_bytes) for one in items],
        total=len(listed),
        unlisted=folders.unlisted,
        next=following,
    )


@router.get(
    "/{slide}",
    summary="A slide's facts",
    operation_id="read_slide",
    responses=problems(404),
    dependencies=[allow("read")],
)
async def read(request: Request, slide: SlideId) -> SlideAnswer:
    """Sizes in level-0 pixels, micrometres per pixel, and the numbers of its DeepZoom tiles."""

    def look() -> tuple[Path, str]:
        with audited(request, "read", slide=slide if is_slide_id(slide) else None, part="slide"):
            path = _find(request, slide)
            return path, version_of(path)

    path, version = await anyio.to_thread.run_sync(look)
    facts = await _work(request, partial(_pictures(request).facts, path))
    return SlideAnswer(
        id=slide,
        name=path.name,
        width=facts.width,
        height=facts.height,
        mpp_x=facts.mpp_x,
        mpp_y=facts.mpp_y,
        bounds=facts.bounds,
        version=version,
        tile_size=TILE_SIZE,
        tile_overlap=OVERLAP,
        min_level=facts.min_level,
        max_level=facts.max_level,
    )


@router.get(
    "/{slide}/tiles/{level}/{column}_{row}.jpg",
    summary="A DeepZoom tile",
    operation_id="read_slide_tile",
    response_class=Response,
    responses=_JPEG,
    dependencies=[allow("read", cost=0.01)],
)
async def tile(request: Request, slide: SlideId, level: Level, column: Column, row: Row, version: Version = None) -> Response:
    """A part of the slide; `level`, `column` and `row` as DeepZoom counts them. A hundred tiles count as one request."""
    pictures = _pictures(request)
    return await _picture(request, slide, version, lambda path: pictures.tile(path, level, column, row))


@router.get(
    "/{slide}/thumbnail.jpg",
    summary="The whole slide, small",
    operation_id="read_slide_thumbnail",
    response_class=Response,
    responses=_JPEG,
    dependencies=[allow("read", cost=0.1)],
)
async def thumbnail(request: Request, slide: SlideId, width: Width = 256, version: Version = None) -> Response:
    """The whole level-0 plane, at most `width` pixels wide."""
    pictures = _pictures(request)
    return await _picture(request, slide, version, lambda path: pictures.thumbnail(path, width))


async def _picture(request: Request, slide: str, version: str | None, draw: Any) -> Response:
    """A picture, which a browser may cache if its URL names the slide's version."""

    def look() -> tuple[Path, str]:
        path = _find(request, slide)
        _note(request, slide)
        return path, version_of(path)

    path, shown = await anyio.to_thread.run_sync(look)
    headers = {"ETag": f'"{shown}"', "Cache-Control": KEPT if version == shown else ASKED_AGAIN}
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    content = await _work(request, partial(draw, path))
    if await anyio.to_thread.run_sync(_version_now, path) != shown:
        headers = {}  # it was replaced meanwhile, and which version this shows is unknown
    return Response(content, media_type="image/jpeg", headers=headers)


def _version_now(path: Path) -> str | None:
    try:
        return version_of(path)
    except OSError:
        return None


def _note(request: Request, slide: str) -> None:
    """Write into the audit log who views a slide's pictures: one line, not one for each of hundreds."""
    noted: Noted = request.app.state.noted
    if noted.is_due((key_of(request), slide)):
        with audited(request, "read", slide=slide, part="pictures") as record:
            record()
        noted.keep((key_of(request), slide))


class Noted:
    """Recent audit lines; thread-safe."""

    def __init__(self, seconds: float = READS_NOTED_SECONDS, most: int = 10_000) -> None:
        self._seconds, self._most = seconds, most
        self._times: OrderedDict[Any, float] = OrderedDict()
        self._lock = threading.Lock()

    def is_due(self, what: Any) -> bool:
        """Whether it was not recorded recently."""
        with self._lock:
            return time.monotonic() - self._times.get(what, -self._seconds) >= self._seconds

    def keep(self, what: Any) -> None:
        """Mark it as recorded now."""
        with self._lock:
            self._times[what] = time.monotonic()
            self._times.move_to_end(what)
            if len(self._times) > self._most:
                self._times.popitem(last=False)


async def _work(request: Request, work: partial[Any]) -> Any:
    """Wait for a decoder without blocking a thread that others need."""
    return await anyio.to_thread.run_sync(work, limiter=request.app.state.decoding)


def _find(request: Request, slide: str) -> Path:
    if not is_slide_id(slide):
        raise NotFoundError("there is no slide of this id", "use an id that GET /v1/slides gives")
    return _files(request).find(slide)


def _files(request: Request) -> SlideFiles:
    return backend_of(request).slides


def _pictures(request: Request) -> SlidePictures:
    pictures: SlidePictures = request.app.state.pictures
    return pictures
