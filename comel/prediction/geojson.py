"""Tiles and regions as GeoJSON that QuPath opens in the right place."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from comel.errors import ComelError
from comel.prediction.prediction import NOTICE, Prediction
from comel.prediction.raster import tile_corners, tile_grid

__all__ = ["to_geojson"]

_POSITIVE_COLOUR, _OTHER_COLOUR = [214, 72, 40], [92, 108, 128]


def to_geojson(
    prediction: Prediction,
    *,
    minimum_score: float | None = None,
    origin: Literal["bounds", "level0"] = "bounds",
    merge: bool = False,
) -> dict[str, Any]:
    """Tiles or merged regions as a FeatureCollection in level-0 pixels that QuPath opens in the right place.

    QuPath crops a slide to its bounds only if the file states all four ``openslide.bounds-*``; then ``origin="bounds"``
    counts from the corner of the bounds; otherwise both origins are the same.

    Args:
        prediction: scores with coordinates and geometry.
        minimum_score: leave out tiles below this score, 0 to 1; None means the prediction's threshold.
        origin: where (0, 0) lies: "bounds", as in QuPath, or "level0", as in OpenSlide.
        merge: join touching tiles into regions (annotations, with holes) instead of one rectangle per tile.

    Raises:
        ComelError: no coordinates or geometry, or an argument out of range.
    """
    geometry = prediction.geometry
    if geometry is None:
        raise ComelError(
            f"{prediction.slide_id}: the bag does not state its tile size and mpp, so its tiles cannot be placed on the slide",
            "extract the slide with comel extract, or draw the map picture instead",
        )
    if origin not in ("bounds", "level0"):
        raise ComelError(f"origin {origin!r} is not known", "give bounds or level0")
    minimum_score = prediction.threshold if minimum_score is None else minimum_score
    if not 0.0 <= minimum_score <= 1.0:
        raise ComelError(f"minimum score {minimum_score:g} is not between 0 and 1", "give a score from 0 to 1")
    shift = np.array([geometry.bounds_x, geometry.bounds_y]) if origin == "bounds" and geometry.has_bounds else np.zeros(2)
    kept = np.flatnonzero(prediction.tiles_from(minimum_score))
    if merge:
        features = _regions(prediction, kept, shift)
    else:
        corners = tile_corners(prediction)[kept] - shift
        positive, name = prediction.tiles_from(prediction.threshold)[kept], _positive_name(prediction)
        features = []
        for (x, y), score, above in zip(
            corners.tolist(), prediction.instance_scores[kept].tolist(), positive.tolist(), strict=True
        ):
            right, bottom = round(x + geometry.tile_width, 2), round(y + geometry.tile_height, 2)
            ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
            features.append(_feature([ring], "tile", name if above else "below threshold", {"score": round(score, 6)}, above))
    return {"type": "FeatureCollection", "features": features, "notice": NOTICE}


def _regions(prediction: Prediction, kept: np.ndarray, shift: np.ndarray) -> list[dict[str, Any]]:
    """Regions of touching tiles, merged on the grid, where neighbours meet exactly, and then placed on the slide."""
    import shapely
    from shapely.geometry.polygon import orient

    if not len(kept):
        return []
    grid = tile_grid(prediction)
    columns, rows, place = grid.columns[kept], grid.rows[kept], grid.transform
    joined = shapely.unary_union(shapely.box(columns, rows, columns + grid.across, rows + grid.down))
    parts = shapely.get_parts(joined)
    centres = shapely.points(columns + grid.across / 2, rows + grid.down / 2)
    tile, part = shapely.STRtree(parts).query(centres, predicate="intersects")
    scores, features = prediction.instance_scores[kept], []
    geometry, name = prediction.geometry, _positive_name(prediction)
    cell_area = place.cell_width * place.cell_height
    for number, region in enumerate(parts):
        region = orient(region.simplify(0))
        inside = scores[tile[part == number]]
        rings = []
        for ring in (region.exterior, *region.interiors):
            points = np.asarray(ring.coords) * (place.cell_width, place.cell_height) + (place.origin_x, place.origin_y) - shift
            rings.append(np.round(points, 2).tolist())
        measurements = {"tiles": len(inside), "score mean": float(inside.mean()), "score max": float(inside.max())}
        if geometry is not None:
            measurements["area mm^2"] = region.area * cell_area * geometry.level0_mpp_x * geometry.level0_mpp_y / 1e6
        features.append(
            _feature(rings, "annotation", name, {key: round(value, 6) for key, value in measurements.items()}, True)
        )
    return features


def _feature(rings: list[Any], kind: str, name: str, measurements: dict[str, float], positive: bool) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": _POSITIVE_COLOUR if positive else _OTHER_COLOUR},
            "measurements": measurements,
        },
    }


def _positive_name(prediction: Prediction) -> str:
    return str(prediction.label) if prediction.positive else "above threshold"
