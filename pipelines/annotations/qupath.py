"""GeoJSON files of QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from pipelines.annotations.problems import annotation_error
from pipelines.annotations.vector import MarkedArea, check_size, marked_areas

__all__ = ["read_geojson"]

_WITHOUT_AREA = {"Point", "MultiPoint", "LineString", "MultiLineString"}
_GEOMETRIES = {"Polygon", "MultiPolygon", "GeometryCollection", *_WITHOUT_AREA}
_LEAST_POINTS, _FEW_POINTS = 3, 4


def read_geojson(path: Path, origin: tuple[int, int] = (0, 0)) -> list[MarkedArea]:
    """The areas of a GeoJSON file: a feature collection, a list of features, a feature, or a bare geometry.

    Args:
        path: the file.
        origin: level-0 pixel (x, y) that its coordinates start from; QuPath counts from a slide's bounds if it has any.

    Raises:
        SlideError: the file is damaged, holds something else, or is too large (stage "annotation").
    """
    check_size(path)
    try:
        content = json.loads(path.read_bytes())
        shapes = [(_areas(shape), name) for shape, name in _features(content)]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, shapely.errors.ShapelyError) as error:
        raise annotation_error(
            path, f"not a usable GeoJSON file ({type(error).__name__}: {error})", "export it from QuPath again"
        ) from None
    offset = np.array(origin)
    return marked_areas(path, [(shapely.transform(shape, lambda points: points + offset), name) for shape, name in shapes])


def _features(content: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """(geometry, class name) of each feature; a bare geometry has no class."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content["features"]
    for entry in content if isinstance(content, list) else [content]:
        if entry.get("type") in _GEOMETRIES:
            yield entry, ""
        elif entry.get("type") != "Feature":
            raise ValueError("an entry is neither a feature nor a geometry")
        elif entry.get("geometry") is not None:
            yield entry["geometry"], _class_name(entry.get("properties") or {})


def _areas(geometry: dict[str, Any]) -> shapely.Geometry:
    """A geometry's areas; one without area, such as a polygon of two points, is left out, as in XML files."""
    if (kind := geometry["type"]) == "GeometryCollection":
        return shapely.GeometryCollection([_areas(part) for part in geometry["geometries"]])
    if kind in _WITHOUT_AREA:
        return shapely.GeometryCollection()
    if kind not in _GEOMETRIES:
        raise ValueError(f"'{kind}' is not a geometry")
    polygons = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
    kept = [[rings[0], *filter(_has_area, rings[1:])] for rings in polygons if rings and _has_area(rings[0])]
    return shapely.geometry.shape({"type": "MultiPolygon", "coordinates": kept})


def _has_area(ring: list[Any]) -> bool:
    """Whether a ring has three different points. Rings of more points are checked as shapes, in :func:`marked_areas`."""
    return len(ring) > _FEW_POINTS or len({(float(x), float(y)) for x, y, *_ in ring}) >= _LEAST_POINTS


def _class_name(properties: dict[str, Any]) -> str:
    """``classification`` is an object with ``name``, or with the ``names`` of a derived class; plain text elsewhere."""
    found = properties.get("classification") or {}
    return found if isinstance(found, str) else str(found.get("name") or ": ".join(found.get("names") or []))
