"""The models: their classes and requirements, the version that answers, and how to change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from comel.errors import ComelError
from comel.runs.directory import RunDirectory
from comel.runs.metrics import read_metrics
from comel.scoring.continual import ScoreTable, nested
from service.access.gate import allow
from service.http.request_state import audited
from service.http.responses import guarded, problems
from service.http.schemas import (
    ModelAnswer,
    ModelsAnswer,
    ModelSummary,
    ModelVersion,
    RefusedVersion,
    TaskBody,
    UnusableModel,
    VersionRequest,
)
from service.metrics import Metrics
from service.paths import without_paths
from service.served.registry import ModelRegistry, ModelState, Refusal
from service.settings import ServiceSettings

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"], responses=guarded(422))

ModelName = Annotated[str, Path(description="a model's name", examples=["breast"])]


@router.get("", summary="The models that answer", operation_id="list_models", dependencies=[allow("read")])
def models(request: Request) -> ModelsAnswer:
    """Each model's classes, and how its input features must have been made."""
    registry: ModelRegistry = request.app.state.models
    settings: ServiceSettings = request.app.state.settings
    states = [registry.state(name) for name in registry.names]
    return ModelsAnswer(
        items=[ModelSummary(**_summary(request, state)) for state in states if state.version is not None],
        unusable=[
            UnusableModel(name=state.name, refused=_refused(request, state.refusal))
            for state in states
            if state.version is None and state.refusal is not None
        ],
        slides=bool(settings.slide_roots),
        max_upload_bytes=settings.max_upload_bytes,
        max_instances=settings.max_instances,
    )


@router.get(
    "/{name}",
    summary="One model with its versions",
    operation_id="read_model",
    responses=problems(404),
    dependencies=[allow("read")],
)
def model(request: Request, name: ModelName) -> ModelAnswer:
    """The model with every version of its run, their scores and adapters."""
    return _answer(request, name)


@router.post(
    "/{name}/version",
    summary="Choose which version answers",
    operation_id="choose_version",
    responses=problems(400, 404, 408),
    dependencies=[allow("admin")],
)
def choose_version(request: Request, name: ModelName, asked: VersionRequest) -> ModelAnswer:
    """Roll back to an older version, or forward; null follows the newest again.

    The version is loaded and tried first. If it cannot be used, or needs bags made differently, nothing changes and
    the answer says why. Running requests end on the version that they began with.
    """
    registry: ModelRegistry = request.app.state.models
    metrics: Metrics = request.app.state.metrics
    registry.run(name)
    with audited(request, "model", model=name, version=asked.version) as record:
        state = registry.choose(name, asked.version, record=record)
    metrics.model(state, registry.get(name, state.version).run_id)
    return _answer(request, name)


def _answer(request: Request, name: str) -> ModelAnswer:
    registry: ModelRegistry = request.app.state.models
    run, state = registry.run(name), registry.state(name)
    if state.version is None:
        registry.get(name)  # raises the reason
    rows = _rows(run)
    versions = []
    for number in reversed(run.versions()):
        try:
            info = run.info(number)
            adapters = run.version_folder(number) / "adapters"
            names = sorted(path.name for path in adapters.iterdir()) if adapters.is_dir() else []
        except (ComelError, OSError):
            continue  # a damaged version cannot be chosen either
        versions.append(
            ModelVersion(
                version=number,
                created=info.created,
                tasks=[task.name for task in info.tasks],
                adapters=names,
                metrics=rows.get(number, {}),
                answers=number == state.version,
                loaded=registry.is_loaded(name, number),
            )
        )
    return ModelAnswer(**_summary(request, state), versions=versions)


def _summary(request: Request, state: ModelState) -> dict[str, Any]:
    registry: ModelRegistry = request.app.state.models
    predictor = registry.get(state.name, state.version)
    return {
        "name": state.name,
        "default": state.default,
        "run": predictor.run_id,
        "version": state.version,
        "pinned": state.pinned,
        "refused": None if state.refusal is None else _refused(request, state.refusal),
        "mode": predictor.mode,
        "classes": list(predictor.class_names),
        "tasks": [TaskBody.model_validate(task) for task in predictor.tasks],
        "contract": dataclasses.asdict(predictor.contract),
    }


def _refused(request: Request, refusal: Refusal) -> RefusedVersion:
    roots = request.app.state.hidden
    return RefusedVersion(
        version=refusal.version,
        reason=without_paths(refusal.what, roots),
        remedy=without_paths(refusal.remedy, roots),
    )


def _rows(run: RunDirectory) -> Mapping[int, Any]:
    """For each version its row of the run's R matrices, by task."""
    try:
        metrics = read_metrics(run.metrics)
    except ComelError:
        return {}  # a run without scores can still predict
    table = ScoreTable.of_run(metrics)
    matrices = [(kind, mode.key, name, table.matrix(kind, mode, name)) for kind, mode, name in table.keys]
    return {
        entry.version: nested((*key, dict(zip(table.tasks, rows[stage], strict=True))) for *key, rows in matrices)
        for stage, entry in enumerate(metrics.stages)
    }
