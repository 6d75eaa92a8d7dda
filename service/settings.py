"""What the service is told, by arguments or by environment variables that start with ``COMEL_``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["ServiceSettings"]


class ServiceSettings(BaseSettings):
    """Settings of ``comel serve``. How slides are extracted is not set here: the run's feature contract says it."""

    model_config = SettingsConfigDict(env_prefix="COMEL_", extra="forbid", frozen=True)

    run: Path = Field(description="run directory whose current version answers")
    slide_root: Path | None = Field(default=None, description="folder whose slides may be named in requests; none: bags only")
    state_dir: Path = Field(default=Path("comel-state"), description="folder that keeps predictions and maps")
    max_upload_bytes: int = Field(
        default=2 << 30, gt=0, description="largest request body, and largest decoded array of a bag, in bytes"
    )
    max_instances: int = Field(default=500_000, gt=0, description="most tiles of one bag or slide")
    device: str = Field(default="auto", description="auto, cpu or cuda, for the model and the patch encoder")
    host: str = Field(
        default="127.0.0.1",
        description="address to listen on; there is no sign-in, so other than loopback needs a proxy that has one",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on")
