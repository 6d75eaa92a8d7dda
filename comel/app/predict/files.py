"""The files of a prediction, ``<name>.json``, ``.png`` and ``.geojson``, and whether existing ones can be kept."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comel.app.schemas import PredictOptions
from comel.base.files import atomic_path, read_json, write_text
from comel.errors import ComelError
from comel.prediction.prediction import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["KINDS", "Writing", "kept_prediction", "kinds_of", "write_prediction"]

KINDS = {"png": "maps", "geojson": "GeoJSON", "json": "JSON"}
"""What files are called, by suffix; the JSON is written last, so if it exists the others are complete."""


@dataclass(frozen=True)
class Writing:
    """Where and how predictions are written."""

    out: Path
    table: Path
    width: int
    merge: bool

    @classmethod
    def of(cls, out: Path, options: PredictOptions) -> Writing:
        """From the options; the table lies in ``out`` unless they name another."""
        return cls(out, options.table or out / "predictions.csv", options.width, options.merge)

    def path(self, name: str, kind: str) -> Path:
        """A slide's file of one of :data:`KINDS`."""
        return self.out / f"{name}.{kind}"


def kinds_of(prediction: Prediction) -> list[str]:
    """Which of :data:`KINDS` a prediction has: a map needs coordinates, GeoJSON geometry as well."""
    there = {
        "png": prediction.coords is not None,
        "geojson": prediction.coords is not None and prediction.geometry is not None,
        "json": True,
    }
    return [kind for kind in KINDS if there[kind]]


def write_prediction(prediction: Prediction, thumbnail: Image | None, writing: Writing, request: str | None) -> Prediction:
    """Write a slide's files, replacing existing ones of its name.

    A map or regions that cannot be drawn do not cost the result: a note says why they are missing, or drawn differently.

    Args:
        prediction: the prediction to write.
        thumbnail: the slide's picture to draw the map on, or None.
        writing: where and how to write.
        request: hash of everything requested, for :func:`kept_prediction`; None if unknown.

    Returns:
        The prediction with these notes.
    """
    from comel.prediction.geojson import to_geojson
    from comel.prediction.picture import PNG_EFFORT

    kinds, name = kinds_of(prediction), prediction.slide_id
    picture, regions = None, None
    notes: list[str] = []
    if "png" in kinds:
        picture, notes = _map(prediction, thumbnail, writing.width)
    if "geojson" in kinds:
        try:
            regions = to_geojson(prediction, merge=writing.merge)
        except ComelError as error:
            notes.append(f"no GeoJSON: {error}")
    prediction = dataclasses.replace(prediction, notes=(*prediction.notes, *notes))
    for kind in reversed(KINDS):
        writing.path(name, kind).unlink(missing_ok=True)
    if picture is not None:
        with atomic_path(writing.path(name, "png")) as temporary:
            picture.save(temporary, format="PNG", compress_level=PNG_EFFORT)
    if regions is not None:
        write_text(writing.path(name, "geojson"), json.dumps(regions) + "\n")
    prediction.save_json(writing.path(name, "json"), request=request)
    return prediction


def _map(prediction: Prediction, thumbnail: Image | None, width: int) -> tuple[Image | None, list[str]]:
    """The map, and notes on it for the user."""
    from comel.prediction.picture import draw_map, map_size

    try:
        across, notes = map_size(prediction, width)[0], []
        if across < width:
            notes.append(f"the map is {across} px wide instead of {width}: the slide is too long and narrow")
        try:
            return draw_map(prediction, thumbnail, width=width), notes
        except ComelError as error:
            if thumbnail is None:
                raise
            return draw_map(prediction, None, width=width), [*notes, f"the map is drawn without the slide: {error}"]
    except ComelError as error:
        return None, [f"no map: {error}"]


def kept_prediction(name: str, writing: Writing, request: str) -> Prediction | None:
    """The slide's prediction if its files exist and were made by the same request; otherwise None."""
    try:
        value = read_json(writing.path(name, "json"))
        if value.get("request") != request:
            return None
        prediction = Prediction.from_dict(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ComelError):
        return None
    return prediction if all(writing.path(name, kind).is_file() for kind in kinds_of(prediction)) else None
