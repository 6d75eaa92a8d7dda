"""The slides of the slide folders: a list, what each is like, and its pixels for a viewer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter

from service.access.gate import allow
from service.db.cursors import Limit, NameCursor, page_of
from service.errors import NotFoundError
from service.http.request_state import audited, backend_of
from service.http.responses import Responses, file_answer, guarded, problems
from service.http.slide_schemas import SlideAnswer, SlideEntry, SlideList
from service.ids import EXAMPLE_SLIDE
from service.slides.finder import SlideFiles
from service.slides.folders import is_slide_id
from service.slides.pictures import OVERLAP, TILE_SIZE, SlidePictures, version_of

__all__ = ["router"]

PICTURE_SECONDS = 3600

router = APIRouter(prefix="/v1/slides", tags=["slides"], responses=guarded(422))

_JPEG: Responses = {
    **file_answer("image/jpeg", "The picture; its ETag is for `If-None-Match`."),
    304: {"description": "Not changed since the ETag that was sent."},
    **problems(404),
}
Prefix = Annotated[
    str | None, Query(max_length=256, description="only slides whose name begins so, in any case", examples=["slide-1"])
]
SlideId = Annotated[str, PathParameter(description="a slide's id", examples=[EXAMPLE_SLIDE])]
Level = Annotated[int, PathParameter(ge=0, le=2**31, description="DeepZoom level, 0 the coarsest", examples=[14])]
Column = Annotated[int, PathParameter(ge=0, le=2**31, description="column of the tile, from the left", examples=[3])]
Row = Annotated[int, PathParameter(ge=0, le=2**31, description="row of the tile, from the top", examples=[5])]
Width = Annotated[int, Query(ge=32, le=2048, description="width in pixels", examples=[256])]


@router.get("", summary="Slides of the slide folders", operation_id="list_slides", dependencies=[allow("read")])
def slides(request: Request, prefix: Prefix = None, limit: Limit = 100, cursor: NameCursor = None) -> SlideList:
    """By file name; `next` is the cursor of the page after this one. A folder of DICOM files is one slide.

    What lies behind a symbolic link is not listed.
    """
    listed = _files(request).folders.listing()
    if prefix:
        listed = [slide for slide in listed if slide.name.casefold().startswith(prefix.casefold())]
    items, following = page_of(listed, limit, cursor, key=lambda slide: (slide.name, slide.id))
    return SlideList(
        items=[SlideEntry(id=one.id, name=one.name, root=one.root, size_bytes=one.size_bytes) for one in items],
        total=len(listed),
        next=following,
    )


@router.get(
    "/{slide}",
    summary="What a slide is like",
    operation_id="read_slide",
    responses=problems(404),
    dependencies=[allow("read")],
)
async def read(request: Request, slide: SlideId) -> SlideAnswer:
    """Sizes in level-0 pixels, micrometres per pixel, and the numbers of its DeepZoom tiles."""
    with audited(request, "read", slide=slide if is_slide_id(slide) else None, part="slide"):
        path = await anyio.to_thread.run_sync(_find, request, slide)
        facts = await _work(request, partial(_pictures(request).facts, path))
    return SlideAnswer(
        id=slide,
        name=path.name,
        width=facts.width,
        height=facts.height,
        mpp_x=facts.mpp_x,
        mpp_y=facts.mpp_y,
        bounds=facts.bounds,
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
async def tile(request: Request, slide: SlideId, level: Level, column: Column, row: Row) -> Response:
    """A part of the slide; `level`, `column` and `row` as DeepZoom counts them. A hundred tiles count as one request."""
    pictures = _pictures(request)
    return await _picture(request, slide, lambda path: pictures.tile(path, level, column, row))


@router.get(
    "/{slide}/thumbnail.jpg",
    summary="The whole slide, small",
    operation_id="read_slide_thumbnail",
    response_class=Response,
    responses=_JPEG,
    dependencies=[allow("read", cost=0.1)],
)
async def thumbnail(request: Request, slide: SlideId, width: Width = 256) -> Response:
    """The whole level-0 plane, at most `width` pixels wide."""
    pictures = _pictures(request)
    return await _picture(request, slide, lambda path: pictures.thumbnail(path, width))


async def _picture(request: Request, slide: str, draw: Any) -> Response:
    """A picture that a browser may keep, or word that the one it keeps is still right."""
    path = await anyio.to_thread.run_sync(_find, request, slide)
    headers = {"ETag": f'"{version_of(path)}"', "Cache-Control": f"private, max-age={PICTURE_SECONDS}"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    content = await _work(request, partial(draw, path))
    return Response(content, media_type="image/jpeg", headers=headers)


async def _work(request: Request, work: partial[Any]) -> Any:
    """Wait for a decoder without holding a thread that others need."""
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
