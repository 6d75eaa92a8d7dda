"""What the model knows and needs."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Request

from service.access import allow
from service.predictions import PredictionService
from service.problems import RESPONSES
from service.schemas import ModelAnswer

__all__ = ["router"]

router = APIRouter(
    prefix="/v1",
    tags=["model"],
    dependencies=[allow("read")],
    responses={status: RESPONSES[status] for status in (401, 403, 429)},
)


@router.get("/model", summary="Classes, tasks, version and feature contract")
async def model(request: Request) -> ModelAnswer:
    """Which classes the model tells apart, and how the features that it is given must have been made."""
    service: PredictionService = request.app.state.service
    predictor, settings = service.predictor, service.settings
    return ModelAnswer(
        run=predictor.run_id,
        version=predictor.version,
        mode=predictor.mode,
        classes=list(predictor.class_names),
        tasks=predictor.tasks,
        contract=dataclasses.asdict(predictor.contract),
        slides=settings.slide_root is not None,
        max_upload_bytes=settings.max_upload_bytes,
        max_instances=settings.max_instances,
    )
