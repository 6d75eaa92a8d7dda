"""Slides in requests and answers."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.ids import EXAMPLE_SLIDE

__all__ = ["SlideAnswer", "SlideEntry", "SlideList"]

_ID = Field(description="the slide's id here", examples=[EXAMPLE_SLIDE])


class SlideEntry(BaseModel):
    """A slide: a file, or a folder of DICOM files."""

    id: str = _ID
    name: str = Field(description="name of the file or the DICOM folder, without its path", examples=["slide-1.svs"])
    root: int = Field(description="number of the slide folder in the settings, from 0", examples=[0])
    size_bytes: int = Field(description="size of its files", examples=[412_336_128])


class SlideList(BaseModel):
    """A page of slides."""

    items: list[SlideEntry]
    total: int = Field(description="slides on all pages", examples=[1])
    unlisted: int = Field(
        description="files with a slide's suffix that are not listed: links, names that are not text, unreadable files",
        examples=[0],
    )
    next: str | None = Field(description="cursor of the next page, null at the last", examples=[None])


class SlideAnswer(BaseModel):
    """A slide's facts for a viewer. Lengths are level-0 pixels; the plane is never cropped to the bounds."""

    id: str = _ID
    name: str = Field(examples=["slide-1.svs"])
    width: int = Field(examples=[46_000])
    height: int = Field(examples=[32_914])
    mpp_x: float | None = Field(description="micrometres per pixel; null if the slide does not state it", examples=[0.499])
    mpp_y: float | None = Field(examples=[0.499])
    bounds: tuple[int, int, int, int] | None = Field(
        description="x, y, width and height of the part that was scanned; null for all of it", examples=[None]
    )
    version: str = Field(
        description="tag of its files; as `version` in a tile's URL it lets a browser cache the tile",
        examples=["9b0d1f4c3a5e7f2011aa22bb"],
    )
    tile_size: int = Field(description="side of a tile in pixels, without overlap", examples=[512])
    tile_overlap: int = Field(description="pixels that a tile overlaps each neighbour", examples=[1])
    min_level: int = Field(description="coarsest DeepZoom level served", examples=[0])
    max_level: int = Field(description="DeepZoom level of the level-0 plane itself", examples=[16])
