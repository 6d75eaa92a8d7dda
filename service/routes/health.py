"""Is the service up."""

from __future__ import annotations

from fastapi import APIRouter

from service.schemas import Health

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the service up")
async def health() -> Health:
    """Cheap: touches neither the model nor the disk, and answers while predictions run."""
    return Health()
