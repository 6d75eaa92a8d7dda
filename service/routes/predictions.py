"""Make predictions, and read them with their maps."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from comel.errors import ComelError
from comel.prediction import Prediction, shortest_floats
from service.access import allow
from service.audit import AuditLog, outcome_of
from service.metrics import Metrics
from service.predictions import PredictionService, Stored, is_prediction_id
from service.problems import RESPONSES, WrongKindError, describe_validation
from service.schemas import InstancesAnswer, InstancesBody, Links, PredictionAnswer, PredictionBody, SlideRequest
from service.uploads import received_bag, small_body

__all__ = ["router"]

MAX_INLINE_INSTANCES = 10_000

router = APIRouter(
    prefix="/v1/predictions",
    tags=["predictions"],
    responses={status: RESPONSES[status] for status in (401, 403, 404, 422, 429)},
)

_UPLOAD_SCHEMA = {
    "type": "object",
    "required": ["bag"],
    "properties": {
        "bag": {
            "type": "string",
            "format": "binary",
            "description": "the slide's features as HDF5, as comel extract writes them",
        },
        "task": {"type": "string", "description": "tell apart the classes of this task only"},
        "assume_encoder": {"type": "string", "description": "the encoder that made the features, where the file does not say"},
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _UPLOAD_SCHEMA},
        "application/json": {
            "schema": SlideRequest.model_json_schema(),
            "example": {"slide": "case-7/slide-1.svs", "task": None, "mpp": None},
        },
    },
}

Threshold = Annotated[float | None, Query(ge=0, le=1, description="instance score to outline; the model's own if not given")]
Width = Annotated[int | None, Query(ge=256, le=4096, description="width of the picture in pixels (1024)")]
Alpha = Annotated[float | None, Query(ge=0, le=1, description="opacity of a tile with score 1")]
Origin = Annotated[
    Literal["bounds", "level0"], Query(description="where (0, 0) lies: bounds as QuPath has it, level0 as OpenSlide")
]
MinimumScore = Annotated[
    float | None, Query(ge=0, le=1, description="leave out tiles below; the model's threshold if not given")
]
Merge = Annotated[bool, Query(description="join touching tiles into regions")]


@router.post(
    "",
    status_code=201,
    summary="Predict one slide",
    response_model=PredictionAnswer,
    responses={413: RESPONSES[413], 415: RESPONSES[415]},
    openapi_extra={"requestBody": _BODY},
    dependencies=[allow("predict")],
)
async def predict(request: Request, response: Response) -> PredictionAnswer:
    """Predict from a bag (multipart, a file in `bag`) or from a slide below the service's slide folder (JSON).

    The answer carries the class with its probability and the tiles' scores with coordinates: the first 10,000 of them; all
    are at `links.instances`. A slide is extracted first, which takes seconds to minutes.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise WrongKindError(
            f"a body of type '{kind[:80]}' is not taken",
            "send multipart/form-data with a bag, or application/json with a slide",
        )
    async with _accounted(request, "slide" if kind == "application/json" else "bag") as account:
        stored = await (_predict_slide if kind == "application/json" else _predict_bag)(request, account)
        account.stored = stored
    answer = _answer(request, stored)
    response.headers["Location"] = answer.links.this
    return answer


@router.get("/{identifier}", summary="Read a prediction", dependencies=[allow("read")])
def read(request: Request, identifier: str) -> PredictionAnswer:
    """As it was answered when it was made."""
    with _reading(request, identifier, "prediction"):
        stored = _service(request).load(identifier)
    return _answer(request, stored)


@router.get("/{identifier}/instances", summary="All tiles with their scores", dependencies=[allow("read")])
def instances(request: Request, identifier: str) -> InstancesAnswer:
    """The instance-level map as numbers, whole."""
    with _reading(request, identifier, "instances"):
        stored = _service(request).load(identifier)
    return InstancesAnswer(id=identifier, instances=_instances(stored.prediction, None))


@router.get(
    "/{identifier}/map.png",
    summary="The map as a picture",
    response_class=Response,
    dependencies=[allow("read")],
    responses={200: {"description": "The scores over the slide, on a scale of 0 to 1.", "content": {"image/png": {}}}},
)
def map_png(
    request: Request, identifier: str, width: Width = None, threshold: Threshold = None, alpha: Alpha = None
) -> Response:
    """Tile scores over the slide's thumbnail, or over a light canvas where only a bag was given."""
    with _reading(request, identifier, "map.png"):
        content = _service(request).map_png(identifier, width=width, alpha=alpha, threshold=threshold)
    return Response(content, media_type="image/png")


@router.get(
    "/{identifier}/map.geojson",
    summary="The map as GeoJSON",
    response_class=JSONResponse,
    dependencies=[allow("read")],
    responses={200: {"description": "A FeatureCollection that QuPath opens.", "content": {"application/geo+json": {}}}},
)
def map_geojson(
    request: Request, identifier: str, origin: Origin = "bounds", minimum_score: MinimumScore = None, merge: Merge = False
) -> JSONResponse:
    """Tiles from the threshold on, or the regions that they form, in level-0 pixels."""
    with _reading(request, identifier, "map.geojson"):
        collection = _service(request).geojson(identifier, origin=origin, minimum_score=minimum_score, merge=merge)
    return JSONResponse(collection, media_type="application/geo+json")


@dataclass
class _Account:
    """What the audit log and the metrics are told of one prediction, as far as it got."""

    slide: str | None = None
    stored: Stored | None = None


@asynccontextmanager
async def _accounted(request: Request, kind: Literal["bag", "slide"]) -> AsyncIterator[_Account]:
    """Write the prediction that the block makes, or its failure, into the audit log and the metrics.

    The line is on disk before the client has its answer: no prediction is given out that the log does not have.
    """
    audit: AuditLog = request.app.state.audit
    metrics: Metrics = request.app.state.metrics
    predictor = _service(request).predictor
    account, started, outcome = _Account(), time.perf_counter(), {"outcome": "done"}
    try:
        with metrics.running():
            yield account
    except BaseException as error:
        outcome = outcome_of(error)
        raise
    finally:
        stored = account.stored
        slide = account.slide if stored is None else stored.prediction.slide_id
        model = {"run": predictor.run_id, "version": predictor.version} if stored is None else stored.prediction.model
        facts: dict[str, Any] = {
            "request": request.state.request_id,
            "prediction": None if stored is None else stored.id,
            "slide": None if slide is None else audit.pseudonym(slide),
            "run": model.get("run"),
            "version": model.get("version"),
        }
        write = partial(audit.record, "predict", key=_key(request), **outcome, **facts)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(write)
        tiles = None if stored is None else len(stored.prediction.instance_scores)
        metrics.prediction(kind, outcome["outcome"], time.perf_counter() - started, tiles)


async def _predict_bag(request: Request, account: _Account) -> Stored:
    service = _service(request)
    async with received_bag(request, service.uploads, service.settings.max_upload_bytes) as bag:
        account.slide = bag.path.stem
        work = partial(service.predict_bag_file, bag.path, task=bag.task, assume_encoder=bag.assume_encoder)
        return await _work(request, work)


async def _predict_slide(request: Request, account: _Account) -> Stored:
    try:
        asked = SlideRequest.model_validate_json(await small_body(request))
    except ValidationError as error:
        raise ComelError(describe_validation(error.errors()), "see the API description") from None
    account.slide = PurePosixPath(asked.slide).stem
    return await _work(request, partial(_service(request).predict_slide, asked.slide, task=asked.task, mpp=asked.mpp))


def _reading(request: Request, identifier: str, part: str) -> AbstractContextManager[None]:
    """Write into the audit log who reads which prediction. Of an id that cannot be one nothing is kept."""
    audit: AuditLog = request.app.state.audit
    known = identifier if is_prediction_id(identifier) else None
    facts = {"request": request.state.request_id, "prediction": known, "part": part}
    return audit.recorded("read", key=_key(request), **facts)


def _key(request: Request) -> str | None:
    return getattr(request.state, "key", None)


def _service(request: Request) -> PredictionService:
    service: PredictionService = request.app.state.service
    return service


async def _work(request: Request, work: partial[Stored]) -> Stored:
    """Run blocking work in a thread of its own allowance, so that waiting predictions never keep reads from a thread."""
    return await anyio.to_thread.run_sync(work, limiter=request.app.state.work)


def _answer(request: Request, stored: Stored) -> PredictionAnswer:
    prediction, name = stored.prediction, {"identifier": stored.id}
    path = request.app.url_path_for
    probabilities = prediction.probabilities
    links: dict[str, Any] = {
        "self": path("read", **name),
        "instances": path("instances", **name),
        "map": path("map_png", **name) if stored.has("map.png") else None,
        "geojson": path("map_geojson", **name) if stored.has("map.geojson") else None,
    }
    return PredictionAnswer(
        id=stored.id,
        prediction=PredictionBody(
            slide_id=prediction.slide_id,
            mode=prediction.mode,
            task=prediction.task,
            label=prediction.label,
            positive=prediction.positive,
            confidence=prediction.confidence,
            probabilities=None if probabilities is None else dict(zip(prediction.classes, probabilities.tolist(), strict=True)),
            threshold=prediction.threshold,
            model=dict(prediction.model),
            notes=list(prediction.notes),
        ),
        instances=_instances(prediction, MAX_INLINE_INSTANCES),
        links=Links(**links),
    )


def _instances(prediction: Prediction, limit: int | None) -> InstancesBody:
    scores, coords, geometry = prediction.instance_scores[:limit], prediction.coords, prediction.geometry
    return InstancesBody(
        count=len(prediction.instance_scores),
        positive=prediction.positive_instances,
        returned=len(scores),
        scores=shortest_floats(scores),
        coords=None if coords is None else coords[:limit].tolist(),
        tile_size=None if geometry is None else (geometry.tile_width, geometry.tile_height),
    )
