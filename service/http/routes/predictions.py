"""Request predictions, list them, read and delete one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import ValidationError

from comel.errors import ComelError
from comel.prediction.prediction import Prediction, shortest_floats
from service.access.audit import AuditLog, Recording, outcome_of
from service.access.gate import allow
from service.db.cursors import Limit, TimeCursor
from service.errors import WrongKindError
from service.http.job_schemas import JobAnswer, job_answer, time_of
from service.http.problems import describe_validation
from service.http.request_state import audited, backend_of, check_maker, key_of
from service.http.responses import created, guarded, problems
from service.http.schemas import (
    InstancesBody,
    Links,
    OutOfDistributionBody,
    PredictionAnswer,
    PredictionBody,
    PredictionEntry,
    PredictionPage,
)
from service.ids import EXAMPLE_ID, is_id
from service.intake.bodies import received_bag, small_body
from service.jobs.queue import Accepted, NewJob
from service.jobs.sources import SourceRequest
from service.jobs.submission import Asked
from service.metrics import Metrics
from service.predictions.folder import Stored
from service.predictions.work import Made

__all__ = ["PredictionId", "instances_body", "reading", "router"]

MAX_INLINE_INSTANCES = 10_000

router = APIRouter(prefix="/v1/predictions", tags=["predictions"], responses=guarded(422))

_FIELDS = {
    "task": "distinguish only the classes of this task",
    "model": "name of the model; the default one if not given",
    "assume_encoder": "the encoder of the features, if the file does not state it",
    "webhook": "URL that is called when the job has ended; always makes it a job",
}
_UPLOAD_SCHEMA = {
    "type": "object",
    "required": ["bag"],
    "additionalProperties": False,
    "properties": {
        "bag": {
            "type": "string",
            "format": "binary",
            "description": "the slide's features as HDF5, as comel extract writes them",
        },
        **{name: {"type": "string", "description": what} for name, what in _FIELDS.items()},
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _UPLOAD_SCHEMA, "encoding": {"bag": {"contentType": "application/x-hdf5"}}},
        "application/json": {"schema": {"$ref": "#/components/schemas/SourceRequest"}},
    },
}

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        description="the same request sent again with the same key leads to the same result",
        min_length=1,
        max_length=128,
        examples=["case-7-1"],
    ),
]
Prefer = Annotated[str | None, Header(description="respond-async: always a job", examples=["respond-async"])]
PredictionId = Annotated[str, Path(description="a prediction's id", examples=[EXAMPLE_ID])]


@router.post(
    "",
    status_code=201,
    summary="Predict one slide",
    operation_id="predict",
    response_model=PredictionAnswer,
    responses={
        201: created(f"predictions/{EXAMPLE_ID}", "The prediction, made at once from a bag."),
        202: {"model": JobAnswer, **created(f"jobs/{EXAMPLE_ID}", "A job that makes the prediction.")},
        **problems(400, 404, 408, 409, 413, 415),
    },
    openapi_extra={"requestBody": _BODY},
    dependencies=[allow("predict")],
)
async def predict(request: Request, idempotency_key: IdempotencyKeyHeader = None, prefer: Prefer = None) -> Response:
    """Predict from a bag (multipart, a file in `bag`), or from a slide of the service's folders or an upload (JSON).

    A bag up to a set size is answered at once with 201: the class with its probability and the tiles' scores with coordinates,
    the first 10,000 of them; all are at `links.instances`. Slides, uploads and larger bags become jobs, answered with 202 once
    the job is safely recorded; it survives a restart.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise WrongKindError(
            f"a body of type '{kind[:80]}' is not accepted",
            "send multipart/form-data with a bag, or application/json with a slide",
        )
    asked = Asked(
        key=key_of(request),
        request=request.state.request_id,
        idempotency_key=idempotency_key,
        as_job="respond-async" in [part.strip().lower() for part in (prefer or "").split(",")],
    )
    async with _accounted(request, "slide" if kind == "application/json" else "bag") as account:
        account.made = await (_take_file if kind == "application/json" else _take_bag)(request, account, asked)
    if isinstance(account.made, Accepted):
        job = job_answer(account.made)
        headers = {"Location": f"jobs/{job.id}"} | ({"Preference-Applied": "respond-async"} if asked.as_job else {})
        return Response(job.model_dump_json(by_alias=True), 202, headers, "application/json")
    answer = _answer(request, account.made)
    return Response(answer.model_dump_json(by_alias=True), 201, {"Location": f"predictions/{answer.id}"}, "application/json")


@router.get("", summary="List predictions", operation_id="list_predictions", dependencies=[allow("read")])
def list_predictions(request: Request, limit: Limit = 50, cursor: TimeCursor = None) -> PredictionPage:
    """Newest first. Predictions added meanwhile do not shift the pages."""
    backend = backend_of(request)
    with audited(request, "read", prediction=None, part="list"):
        page = backend.predictions.list(limit=limit, cursor=cursor)
    entries = [
        PredictionEntry.model_validate(
            {
                **{name: getattr(row, name) for name in ("id", "slide_id", "label", "confidence", "model", "version")},
                "slide": backend.slides.id_of(row.source),
                "created": time_of(row.created),
                "link": f"/v1/predictions/{row.id}",
            }
        )
        for row in page.items
    ]
    return PredictionPage(items=entries, next=page.next)


@router.get(
    "/{identifier}",
    summary="Read a prediction",
    operation_id="read_prediction",
    responses=problems(404),
    dependencies=[allow("read")],
)
def read(request: Request, identifier: PredictionId) -> PredictionAnswer:
    """As answered when it was made."""
    with reading(request, identifier, "prediction"):
        stored = backend_of(request).predictions.load(identifier)
    return _answer(request, stored)


@router.delete(
    "/{identifier}",
    status_code=204,
    summary="Delete a prediction",
    operation_id="delete_prediction",
    responses=problems(404),
    dependencies=[allow("predict")],
)
def delete(request: Request, identifier: PredictionId) -> None:
    """With its map, its pictures and its bag. A key deletes its own predictions; those of others need scope manage. Its job
    stays in the list; the audit log keeps who deleted it."""
    store = backend_of(request).predictions
    audit: AuditLog = request.app.state.audit
    with audited(request, "delete", prediction=identifier if is_id(identifier) else None) as record:
        check_maker(request, store.row(identifier).key, "prediction")
        with audit.reserve.lent():
            store.delete([identifier], record=record)


def reading(request: Request, identifier: str, part: str) -> AbstractContextManager[Recording]:
    """Write into the audit log who reads which prediction. Invalid ids are not recorded."""
    return audited(request, "read", prediction=identifier if is_id(identifier) else None, part=part)


def instances_body(prediction: Prediction, limit: int | None) -> InstancesBody:
    """A prediction's tiles, the first ``limit`` of them; None for all."""
    scores, coords, geometry = prediction.instance_scores[:limit], prediction.coords, prediction.geometry
    return InstancesBody(
        count=len(prediction.instance_scores),
        positive=prediction.positive_instances,
        returned=len(scores),
        scores=shortest_floats(scores),
        coords=None if coords is None else coords[:limit].tolist(),
        tile_size=None if geometry is None else (geometry.tile_width, geometry.tile_height),
    )


class _Account:
    """Records one request's outcome in the audit log and the metrics.

    The line for the prediction or the accepted job is on disk before it takes effect: no prediction is given out that the
    log does not contain.
    """

    def __init__(self, request: Request, kind: Literal["bag", "slide"]) -> None:
        self.slide: str | None = None
        self.made: Stored | Accepted | None = None
        self._request, self._kind, self._started, self._written = request, kind, time.perf_counter(), False

    def record(self, made: Made | NewJob) -> None:
        """Record the outcome that is about to take effect."""
        if isinstance(made, Made):
            told = {"prediction": made.id, "job": None, "run": made.run, "version": made.version}
            self._write({"outcome": "done"}, made.slide_id, **told)
        else:
            told = {"prediction": None, "job": made.id, "run": None, "version": made.version}
            self._write({"outcome": "accepted"}, made.slide_id, **told)

    def close(self, error: BaseException | None) -> None:
        """Record a failure or a repeated request, and count it."""
        stored = self.made if isinstance(self.made, Stored) else None
        outcome = {"outcome": "done" if stored is not None else "accepted"} if error is None else outcome_of(error)
        try:
            if error is not None or not self._written:
                self._write_again(outcome)
        finally:
            tiles = None if stored is None else len(stored.prediction.instance_scores)
            metrics: Metrics = self._request.app.state.metrics
            metrics.prediction(self._kind, outcome["outcome"], time.perf_counter() - self._started, tiles)

    def _write_again(self, outcome: dict[str, str]) -> None:
        told: dict[str, Any] = {"prediction": None, "job": None, "run": None, "version": None}
        slide = self.slide
        if isinstance(self.made, Stored):
            slide, model = self.made.prediction.slide_id, self.made.prediction.model
            told |= {"prediction": self.made.id, "run": model.get("run"), "version": model.get("version")}
        elif isinstance(self.made, Accepted):
            slide = self.made.job.slide_id
            told |= {"job": self.made.job.id, "version": self.made.job.version}
        self._write(outcome, slide, **told)

    def _write(self, outcome: dict[str, str], slide: str | None, **told: Any) -> None:
        audit: AuditLog = self._request.app.state.audit
        pseudonym = None if slide is None else audit.pseudonym(slide)
        audit.record(
            "predict",
            key=key_of(self._request),
            **outcome,
            request=self._request.state.request_id,
            slide=pseudonym,
            **told,
        )
        self._written = True


@asynccontextmanager
async def _accounted(request: Request, kind: Literal["bag", "slide"]) -> AsyncIterator[_Account]:
    """Record the block's outcome in the audit log and the metrics."""
    metrics: Metrics = request.app.state.metrics
    account = _Account(request, kind)
    failed: BaseException | None = None
    try:
        with metrics.running():
            yield account
    except BaseException as error:
        failed = error
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(account.close, failed)


async def _take_bag(request: Request, account: _Account, asked: Asked) -> Stored | Accepted:
    backend = backend_of(request)
    most = backend.settings.max_upload_bytes
    async with received_bag(request, backend.uploads.folder, most, known=_FIELDS) as bag:
        account.slide = bag.path.stem
        fields = {name: bag.fields.get(name) for name in _FIELDS}
        work = partial(backend.submissions.bag, bag.path, _with(asked, fields), account.record)
        # A separate thread limit, so that waiting predictions never block reads.
        return await anyio.to_thread.run_sync(work, limiter=request.app.state.work)


async def _take_file(request: Request, account: _Account, asked: Asked) -> Stored | Accepted:
    try:
        source = SourceRequest.model_validate_json(await small_body(request))
    except ValidationError as error:
        raise ComelError(describe_validation(error.errors()), "see the API description") from None
    account.slide = PurePosixPath(source.slide or "").stem or None
    fields = {name: getattr(source, name) for name in (*_FIELDS, "mpp")}
    accept = partial(backend_of(request).submissions.file, source, _with(asked, fields), account.record)
    return await anyio.to_thread.run_sync(accept)


def _with(asked: Asked, fields: dict[str, Any]) -> Asked:
    return replace(asked, **fields)


def _answer(request: Request, stored: Stored) -> PredictionAnswer:
    prediction, this = stored.prediction, f"/v1/predictions/{stored.id}"
    backend = backend_of(request)
    row = backend.predictions.row(stored.id)
    probabilities, novelty = prediction.probabilities, prediction.out_of_distribution
    placed = prediction.coords is not None
    links: dict[str, Any] = {
        "self": this,
        "instances": f"{this}/instances",
        "map": f"{this}/map.png" if placed else None,
        "geojson": f"{this}/map.geojson" if placed and prediction.geometry is not None else None,
        "tiles": f"{this}/tiles",
        "bag": f"{this}/bag.h5",
    }
    return PredictionAnswer.model_validate(
        {
            "id": stored.id,
            "created": time_of(row.created),
            "slide": backend.slides.id_of(row.source),
            "prediction": PredictionBody(
                slide_id=prediction.slide_id,
                mode=prediction.mode,
                task=prediction.task,
                label=prediction.label,
                positive=prediction.positive,
                confidence=prediction.confidence,
                probabilities=None
                if probabilities is None
                else dict(zip(prediction.classes, probabilities.tolist(), strict=True)),
                threshold=prediction.threshold,
                model=dict(prediction.model),
                notes=list(prediction.notes),
                out_of_distribution=None if novelty is None else OutOfDistributionBody(**novelty.to_dict()),
            ),
            "instances": instances_body(prediction, MAX_INLINE_INSTANCES),
            "links": Links(**links),
        }
    )
