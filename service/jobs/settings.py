"""What jobs, uploads, webhooks and the clean-up are told; part of :class:`service.settings.ServiceSettings`."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr

__all__ = ["JobSettings"]


class JobSettings(BaseModel):
    """Settings of everything that the database is for."""

    database_url: SecretStr | None = Field(
        default=None, description="postgresql://USER@HOST/NAME for workers on several machines; none: SQLite in state_dir"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="worker processes; none: one a GPU, or one without; 0: only comel worker's",
    )
    worker_memory_bytes: int = Field(
        default=16 << 30, gt=0, description="most memory of one worker process in bytes; a slide that needs more fails"
    )
    job_timeout_seconds: float = Field(default=3600, gt=0, description="longest that one attempt at a job may take")
    max_attempts: int = Field(default=3, gt=0, description="attempts at a job whose worker crashes or goes silent")
    lease_seconds: float = Field(default=30, ge=1, description="how long a worker may be silent before another takes its job")
    grace_seconds: float = Field(default=30, ge=0, description="how long a job may go on after the service was told to stop")
    max_queued_jobs: int = Field(default=1000, gt=0, description="most jobs that wait; beyond: 429")
    retry_seconds: int = Field(default=30, gt=0, description="what Retry-After says where the queue is full")
    sync_max_instances: int = Field(
        default=20_000, ge=0, description="most tiles of a bag that is answered at once; a larger one becomes a job"
    )
    sync_timeout_seconds: float = Field(default=60, gt=0, description="longest that a bag that is answered at once may take")
    upload_part_bytes: int = Field(default=16 << 20, gt=0, description="largest part of a resumable upload in bytes")
    max_slide_bytes: int = Field(default=16 << 30, gt=0, description="largest resumable upload in bytes")
    upload_hours: float = Field(default=24, gt=0, description="how long an upload is kept after its last part")
    keep_days: float | None = Field(
        default=None, gt=0, description="days after which predictions and ended jobs are deleted; none: never"
    )
    max_state_bytes: int | None = Field(
        default=None, gt=0, description="most bytes of predictions and uploads; the oldest predictions go first; none: no limit"
    )
    max_key_bytes: int | None = Field(
        default=None, gt=0, description="most bytes of predictions and uploads of one API key; none: no limit"
    )
    max_key_uploads: int = Field(default=100, gt=0, description="most uploads of one API key that are not complete")
    webhook_hosts: tuple[str, ...] = Field(
        default=(), description="hosts that may be told of ended jobs, such as lims.example.org; a JSON list; none: no webhooks"
    )
    webhook_secret: SecretStr | None = Field(default=None, description="what signs webhook calls, known to their receivers")
    webhook_private: bool = Field(
        default=False, description="let webhooks reach private and loopback addresses, and use http there"
    )
