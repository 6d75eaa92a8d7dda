"""The parts of a prediction: tiles as numbers and as pictures, the map, the bag."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from comel.prediction.picture import COLOUR_MAPS
from service.access.gate import allow
from service.http.conditional import FileAnswer
from service.http.request_state import backend_of
from service.http.responses import UNCHANGED, file_answer, guarded, part_answer, problems
from service.http.routes.predictions import PredictionId, instances_body, reading
from service.http.schemas import InstancesAnswer, TileBody, TilesAnswer
from service.slides.top_tiles import strongest

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/predictions/{identifier}",
    tags=["predictions"],
    dependencies=[allow("read")],
    responses=guarded(404, 422),
)

Threshold = Annotated[
    float | None, Query(ge=0, le=1, description="instance score to outline; the model's own if not given", examples=[0.5])
]
Width = Annotated[
    int | None, Query(ge=256, le=4096, description="width of the picture in pixels; 1024 if not given", examples=[1024])
]
Alpha = Annotated[
    float | None, Query(ge=0, le=1, description="opacity of a tile with score 1; 0.6 if not given", examples=[0.6])
]
ColourMap = Annotated[
    Literal[COLOUR_MAPS] | None,  # type: ignore[valid-type]
    Query(description="colours of the scores; viridis if not given", examples=["magma"]),
]
Origin = Annotated[
    Literal["bounds", "level0"],
    Query(description="where (0, 0) lies: bounds as in QuPath, level0 as in OpenSlide", examples=["level0"]),
]
MinimumScore = Annotated[
    float | None,
    Query(ge=0, le=1, description="leave out tiles below this score; the model's threshold if not given", examples=[0.5]),
]
Merge = Annotated[bool, Query(description="join touching tiles into regions", examples=[True])]
Count = Annotated[int, Query(ge=1, le=1000, description="how many tiles", examples=[12])]
Rank = Annotated[int, Path(ge=1, le=1000, description="1 is the strongest", examples=[1])]

_COLLECTION = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"type": "string", "description": "always FeatureCollection"},
        "features": {"type": "array", "items": {"type": "object"}, "description": "GeoJSON features"},
        "notice": {"type": "string", "description": "permitted use of the answer"},
    },
}


@router.get("/instances", summary="All tiles with their scores", operation_id="read_instances")
def instances(request: Request, identifier: PredictionId) -> InstancesAnswer:
    """The complete instance-level map as numbers."""
    with reading(request, identifier, "instances"):
        stored = backend_of(request).predictions.load(identifier)
    return InstancesAnswer(id=identifier, instances=instances_body(stored.prediction, None))


@router.get(
    "/map.png",
    summary="The map as a picture",
    operation_id="read_map",
    response_class=Response,
    responses=file_answer("image/png", "The scores over the slide, on a scale of 0 to 1."),
)
def map_png(
    request: Request,
    identifier: PredictionId,
    width: Width = None,
    threshold: Threshold = None,
    alpha: Alpha = None,
    colormap: ColourMap = None,
) -> Response:
    """Tile scores over the slide's thumbnail, or over a light canvas if only a bag was given."""
    with reading(request, identifier, "map.png"):
        store = backend_of(request).predictions
        content = store.map_png(identifier, width=width, alpha=alpha, threshold=threshold, colormap=colormap)
    return Response(content, media_type="image/png")


@router.get(
    "/map.geojson",
    summary="The map as GeoJSON",
    operation_id="read_geojson",
    response_class=Response,
    responses=file_answer("application/geo+json", "A FeatureCollection that QuPath opens.", _COLLECTION),
)
def map_geojson(
    request: Request,
    identifier: PredictionId,
    origin: Origin = "bounds",
    minimum_score: MinimumScore = None,
    merge: Merge = False,
) -> JSONResponse:
    """Tiles from the threshold on, or the regions that they form, in level-0 pixels."""
    with reading(request, identifier, "map.geojson"):
        store = backend_of(request).predictions
        collection = store.geojson(identifier, origin=origin, minimum_score=minimum_score, merge=merge)
    return JSONResponse(collection, media_type="application/geo+json")


@router.get("/tiles", summary="The strongest tiles", operation_id="read_tiles")
def tiles(request: Request, identifier: PredictionId, count: Count = 12) -> TilesAnswer:
    """Highest score first. Pictures of the first 12 are kept if the prediction was made from a slide."""
    with reading(request, identifier, "tiles"):
        stored = backend_of(request).predictions.load(identifier)
    prediction, geometry = stored.prediction, stored.prediction.geometry
    listed = []
    for rank, index in enumerate(strongest(prediction, count), start=1):
        x, y = (None, None) if prediction.coords is None else prediction.coords[index].tolist()
        listed.append(
            TileBody(
                rank=rank,
                index=index,
                score=float(str(prediction.instance_scores[index])),
                x=x,
                y=y,
                width=None if geometry is None else geometry.tile_width,
                height=None if geometry is None else geometry.tile_height,
                image=f"/v1/predictions/{identifier}/tiles/{rank}.jpg" if stored.has(f"tiles/{rank:02d}.jpg") else None,
            )
        )
    return TilesAnswer(id=identifier, tiles=listed)


@router.get(
    "/tiles/{rank}.jpg",
    summary="The picture of a strong tile",
    operation_id="read_tile_picture",
    response_class=FileAnswer,
    responses=file_answer("image/jpeg", "The tile as the encoder saw it.")
    | part_answer("image/jpeg")
    | UNCHANGED
    | problems(416),
)
def tile_picture(request: Request, identifier: PredictionId, rank: Rank) -> FileAnswer:
    """Kept with the prediction if it was made from a slide."""
    with reading(request, identifier, "tile"):
        return FileAnswer(backend_of(request).predictions.tile(identifier, rank), media_type="image/jpeg")


@router.get(
    "/bag.h5",
    summary="The bag",
    operation_id="read_bag",
    response_class=FileAnswer,
    responses=file_answer("application/x-hdf5", "The features that the prediction was made from.")
    | part_answer("application/x-hdf5")
    | UNCHANGED
    | problems(416),
)
def bag(request: Request, identifier: PredictionId) -> FileAnswer:
    """As sent, or as extracted from the slide."""
    with reading(request, identifier, "bag.h5"):
        return FileAnswer(backend_of(request).predictions.bag(identifier), media_type="application/x-hdf5")
