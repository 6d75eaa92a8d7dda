"""The tile scores of a prediction as a small picture that a viewer lays over the slide and colours itself."""

from __future__ import annotations

import io
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from comel.prediction.prediction import Prediction
from comel.prediction.raster import RasterTransform, raster_picture, score_raster
from service.access.gate import allow
from service.http.request_state import backend_of
from service.http.responses import file_answer, guarded
from service.http.routes.predictions import PredictionId, reading

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/predictions",
    tags=["predictions"],
    dependencies=[allow("read")],
    responses=guarded(404, 422),
)

ClassName = Annotated[
    str | None,
    Query(
        alias="class",
        max_length=512,
        description="scores of this class; of the predicted finding if not given",
        examples=["breast/tumour"],
    ),
]


class RasterAnswer(BaseModel):
    """Where the picture lies on the slide: its corners in level-0 pixels, not rounded."""

    x: float = Field(description="left edge", examples=[1003.4])
    y: float = Field(description="top edge", examples=[811.8])
    width: float = Field(examples=[30_720.0])
    height: float = Field(examples=[25_600.0])
    columns: int = Field(description="pixels of the picture across; 0 if there is no tile", examples=[120])
    rows: int = Field(examples=[100])
    threshold: float = Field(description="score from which a tile counts as positive", examples=[0.5])
    classes: list[str] = Field(description="values for `class`; empty if scores by class are not stored", examples=[[]])
    level0: bool = Field(description="whether lengths are level-0 pixels; otherwise they are in the bag's own unit")
    level0_width: float = Field(description="width of the slide, or of the tiles' extent if unknown")
    level0_height: float
    mpp_x: float | None = Field(description="micrometres per pixel; null if the bag does not state it", examples=[0.25])
    mpp_y: float | None = Field(examples=[0.25])


@router.get(
    "/{identifier}/raster.png",
    summary="The scores, one pixel per tile",
    operation_id="read_raster",
    response_class=Response,
    responses=file_answer("image/png", "Grey 1 to 255 for scores 0 to 1; transparent where no tile lies."),
)
def raster_png(request: Request, identifier: PredictionId, name: ClassName = None) -> Response:
    """To be placed at the corners given by raster.json. A score is `(grey - 1) / 254`."""
    with reading(request, identifier, "raster.png"):
        raster, _ = _raster(_load(request, identifier), name)
    buffer = io.BytesIO()
    raster_picture(raster).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")


@router.get("/{identifier}/raster.json", summary="Where raster.png lies", operation_id="read_raster_place")
def raster_json(request: Request, identifier: PredictionId) -> RasterAnswer:
    """The corners of the raster, the threshold, and the classes whose scores can be requested."""
    with reading(request, identifier, "raster.json"):
        prediction = _load(request, identifier)
        raster, transform = _raster(prediction, None)
    rows, columns = raster.shape
    geometry, right, bottom = prediction.geometry, columns * transform.cell_width, rows * transform.cell_height
    return RasterAnswer(
        x=transform.origin_x,
        y=transform.origin_y,
        width=right,
        height=bottom,
        columns=columns,
        rows=rows,
        threshold=prediction.threshold,
        classes=[] if prediction.class_scores is None else list(prediction.classes),
        level0=geometry is not None,
        level0_width=transform.origin_x + right if geometry is None else geometry.level0_width,
        level0_height=transform.origin_y + bottom if geometry is None else geometry.level0_height,
        mpp_x=None if geometry is None else geometry.level0_mpp_x,
        mpp_y=None if geometry is None else geometry.level0_mpp_y,
    )


def _raster(prediction: Prediction, name: str | None) -> tuple[np.ndarray, RasterTransform]:
    return score_raster(prediction, None if name is None else prediction.scores_of(name))


def _load(request: Request, identifier: str) -> Prediction:
    return backend_of(request).predictions.load(identifier).prediction
