"""Health, readiness, and Prometheus' metrics."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from fastapi import APIRouter, Request, Response

from comel.errors import ConfigError
from service.access.gate import Gate, allow
from service.errors import NotReadyError
from service.http.request_state import backend_of
from service.http.responses import file_answer, guarded, problems
from service.http.schemas import Health, Readiness
from service.metrics import Metrics
from service.paths import without_paths
from service.served.registry import ModelRegistry, ModelState
from service.settings import ServiceSettings

__all__ = ["router"]

router = APIRouter(tags=["health"])

_TEXT = {"type": "string", "examples": ["# TYPE comel_predictions_total counter\n"]}


@router.get("/healthz", summary="Is the service up", operation_id="health")
async def health() -> Health:
    """Cheap: uses neither the model nor the disk, and answers while predictions run."""
    return Health()


@router.get("/readyz", summary="Can the service predict", operation_id="readiness", responses=problems(503))
def ready(request: Request) -> Readiness:
    """Whether a model answers, the database does, keys can be checked, and the folders can be used with room for an upload."""
    settings: ServiceSettings = request.app.state.settings
    gate: Gate = request.app.state.gate
    _check_folders(settings)
    backend = backend_of(request)
    models: ModelRegistry = request.app.state.models
    try:
        gate.check_keys()
        backend.database.check()
        states = [models.state(name) for name in models.names]
    except ConfigError as error:
        raise NotReadyError(without_paths(error.what, request.app.state.hidden), error.remedy) from None
    warnings = [_refused(state, request.app.state.hidden) for state in states if state.refusal is not None]
    if all(state.version is None for state in states):
        raise NotReadyError("; ".join(warnings) or "no model answers", "check the runs")
    warnings += [
        f"model {name}: cannot be loaded for answering bags at once: {without_paths(why, request.app.state.hidden)}"
        for name, why in sorted(backend.unloadable.items())
    ]
    if unlisted := backend.slides.folders.unlisted:
        warnings.append(f"{unlisted} files in the slide folders are not listed: links, or names that are not text")
    return Readiness(warnings=warnings)


def _check_folders(settings: ServiceSettings) -> None:
    if not os.access(settings.state_dir, os.W_OK | os.X_OK):
        raise NotReadyError("the state folder cannot be written", "check its permissions")
    if shutil.disk_usage(settings.state_dir).free < settings.max_upload_bytes:
        raise NotReadyError("the disk has no room for the largest upload", "free some, or lower max_upload_bytes")
    if not all(os.access(root, os.R_OK | os.X_OK) for root in settings.slide_roots):
        raise NotReadyError("a slide folder cannot be read", "check whether it is mounted")


def _refused(state: ModelState, hidden: Iterable[Path]) -> str:
    """A sentence on the version that cannot be used, why, and the one that answers."""
    assert state.refusal is not None
    wanted = "the run" if state.refusal.version is None else f"version {state.refusal.version}"
    answers = "none" if state.version is None else f"version {state.version}"
    why = without_paths(state.refusal.what, hidden)
    return f"model {state.name}: {wanted} cannot be used, {answers} answers: {why}"


@router.get(
    "/metrics",
    summary="Counts and times for Prometheus",
    operation_id="metrics",
    response_class=Response,
    responses=file_answer("text/plain", "Prometheus' text format.", _TEXT) | guarded(),
    dependencies=[allow("admin")],
)
def metrics(request: Request) -> Response:
    """Needs a key of scope admin, if the service has keys."""
    measured: Metrics = request.app.state.metrics
    backend = backend_of(request)
    measured.jobs(backend.queue.counts())
    measured.gpus()
    return Response(measured.text(), media_type=measured.content_type)
