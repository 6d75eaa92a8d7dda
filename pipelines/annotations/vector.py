"""Outlines as annotations: areas by class, what is cut out of them, and the exact share of a tile that they cover."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import shapely

from comel.bags.bag import TileGeometry
from pipelines.annotations.problems import annotation_error

__all__ = ["MarkedArea", "MarkedShapes", "check_size", "is_one_of", "marked_areas"]

_LEFT_OUT = ("exclusion", "exclude", "hole", "ignore", "ignore*")
_CUT_OUT = ("_2", "none", "normal", "negative", *_LEFT_OUT)
_COLLECTIONS = ("MultiPolygon", "GeometryCollection")
_MAX_VECTOR_BYTES = 512 << 20


@dataclass(frozen=True)
class MarkedArea:
    """One outline.

    Attributes:
        shape: polygons in level-0 pixels, valid.
        name: its class, group or layer; may be empty.
    """

    shape: shapely.Geometry
    name: str


class MarkedShapes:
    """Outlines of a slide; see :class:`pipelines.annotations.Annotation`.

    Args:
        areas: the outlines.
        any_class: take areas of every class except those named to be left out: for a slide's tissue,
            normal areas and regions count.
    """

    def __init__(self, areas: Sequence[MarkedArea], *, any_class: bool = False) -> None:
        self.classes = tuple(sorted({area.name for area in areas if area.name}))
        self.without_area = not areas
        self._areas, self._any_class = areas, any_class
        self._regions: dict[tuple[str, ...], shapely.Geometry] = {}

    def share(self, coords: np.ndarray, geometry: TileGeometry, classes: Sequence[str] = ()) -> np.ndarray:
        return _covered_share(self._counted(tuple(classes)), coords, geometry)

    def extent(self, classes: Sequence[str] = ()) -> Literal["nothing", "a part"]:
        return "nothing" if self._counted(tuple(classes)).is_empty else "a part"

    def _counted(self, wanted: tuple[str, ...]) -> shapely.Geometry:
        if wanted not in self._regions:
            self._regions[wanted] = self._region(wanted)
        return self._regions[wanted]

    def _region(self, wanted: Sequence[str]) -> shapely.Geometry:
        """The union of the areas that count, minus the union of those that are cut out and not requested."""
        counted: list[shapely.Geometry] = []
        cut: list[shapely.Geometry] = []
        cut_out = _LEFT_OUT if self._any_class else _CUT_OUT
        for area in self._areas:
            if wanted and is_one_of(area.name, wanted):
                counted.append(area.shape)
            elif is_one_of(area.name, cut_out):
                cut.append(area.shape)
            elif not wanted and (self._any_class or not area.name.strip().endswith("*")):
                counted.append(area.shape)
        return shapely.difference(shapely.union_all(counted), shapely.union_all(cut))


def marked_areas(path: Path, shapes: Iterable[tuple[shapely.Geometry, str]]) -> list[MarkedArea]:
    """Outlines made valid; points and lines have no area and drop out.

    A ring that crosses itself encloses every part that it winds around, like a pen on paper: a loop drawn over itself
    leaves no hole.

    Raises:
        SlideError: a coordinate is not finite (stage "annotation").
    """
    areas = []
    for shape, name in shapes:
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise annotation_error(path, "a coordinate is not a number", "export it again")
        parts = [shapely.make_valid(part, method="structure", keep_collapsed=False) for part in _polygons(shape)]
        valid = shapely.union_all([part for part in parts if part.area > 0])
        if not valid.is_empty:
            areas.append(MarkedArea(valid, name.strip()))
    return areas


def check_size(path: Path) -> None:
    """Refuse a vector file that is too large to read.

    Raises:
        SlideError: it is too large (stage "annotation").
    """
    if path.stat().st_size > _MAX_VECTOR_BYTES:
        remedy = "export the annotations without the detections"
        raise annotation_error(path, f"larger than {_MAX_VECTOR_BYTES >> 20} MiB", remedy)


def _polygons(shape: shapely.Geometry) -> list[shapely.Geometry]:
    """The polygons in a geometry and in the collections within it."""
    found, pending = [], [shape]
    while pending:
        part = pending.pop()
        if part.geom_type == "Polygon":
            found.append(part)
        elif part.geom_type in _COLLECTIONS:
            pending.extend(shapely.get_parts(part))
    return found


def is_one_of(name: str, classes: Sequence[str]) -> bool:
    """Whether a class is among others, in any letter case; ``Tumor: Positive`` is one of ``Tumor``, as in QuPath."""
    own, others = name.strip().lower(), [other.strip().lower() for other in classes]
    return any(own == other or own.startswith(f"{other}:") for other in others)


def _covered_share(region: shapely.Geometry, coords: np.ndarray, geometry: TileGeometry) -> np.ndarray:
    """(N,) share of each tile's area inside a region; only tiles on a border are cut exactly."""
    left, top = coords[:, 0], coords[:, 1]
    tiles = shapely.box(left, top, left + geometry.tile_width, top + geometry.tile_height)
    share = np.zeros(len(coords))
    tree = shapely.STRtree(tiles)
    tile_area = geometry.tile_width * geometry.tile_height
    for part in shapely.get_parts(region):
        shapely.prepare(part)
        inside = tree.query(part, predicate="contains_properly")
        border = np.setdiff1d(tree.query(part, predicate="intersects"), inside)
        share[inside] += 1.0
        share[border] += shapely.area(shapely.intersection(tiles[border], part)) / tile_area
    return share
