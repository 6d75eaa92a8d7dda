"""Is the service up, can it work, and what Prometheus reads."""

from __future__ import annotations

import os
import shutil

from fastapi import APIRouter, Request, Response

from comel.errors import ConfigError
from service.access.gate import allow
from service.errors import NotReadyError
from service.http.request_state import backend_of
from service.http.responses import file_answer, guarded, problems
from service.http.schemas import Health, Readiness
from service.metrics import Metrics
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings

__all__ = ["router"]

router = APIRouter(tags=["health"])

_TEXT = {"type": "string", "examples": ["# TYPE comel_predictions_total counter\n"]}


@router.get("/healthz", summary="Is the service up", operation_id="health")
async def health() -> Health:
    """Cheap: touches neither the model nor the disk, and answers while predictions run."""
    return Health()


@router.get("/readyz", summary="Can the service predict", operation_id="readiness", responses=problems(503))
def ready(request: Request) -> Readiness:
    """Whether the models are open, the database answers, and the folders can be used with room for an upload."""
    settings: ServiceSettings = request.app.state.settings
    if not os.access(settings.state_dir, os.W_OK | os.X_OK):
        raise NotReadyError("the state folder cannot be written", "see to its permissions")
    if shutil.disk_usage(settings.state_dir).free < settings.max_upload_bytes:
        raise NotReadyError("the disk has no room for the largest upload", "free some, or lower max_upload_bytes")
    if not all(os.access(root, os.R_OK | os.X_OK) for root in settings.slide_roots):
        raise NotReadyError("a slide folder cannot be read", "see whether it is mounted")
    backend = backend_of(request)
    models: ModelRegistry = request.app.state.models
    try:
        backend.database.check()
        states = [models.state(name) for name in models.names]
    except ConfigError as error:
        raise NotReadyError(error.what, error.remedy) from None
    return Readiness(
        warnings=[
            f"model {state.name}: version {state.refusal.version} cannot be used, version {state.version} answers"
            for state in states
            if state.refusal is not None
        ]
        + [f"model {name}: cannot be loaded where bags are answered at once" for name in sorted(backend.unprepared)]
    )


@router.get(
    "/metrics",
    summary="Counts and times for Prometheus",
    operation_id="metrics",
    response_class=Response,
    responses=file_answer("text/plain", "Prometheus' text format.", _TEXT) | guarded(),
    dependencies=[allow("admin")],
)
def metrics(request: Request) -> Response:
    """Needs a key of scope admin, where the service has keys."""
    measured: Metrics = request.app.state.metrics
    backend = backend_of(request)
    measured.jobs(backend.queue.counts())
    measured.gpus()
    return Response(measured.text(), media_type=measured.content_type)
