"""Jobs and uploads over the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from comel.prediction.prediction import NOTICE
from service.db.tables import Upload
from service.ids import EXAMPLE_ID, EXAMPLE_TIME, ID_PATTERN
from service.jobs.queue import Accepted

__all__ = [
    "JobAnswer",
    "JobError",
    "JobPage",
    "State",
    "UploadAnswer",
    "UploadRequest",
    "job_answer",
    "time_of",
    "upload_answer",
]

State = Literal["queued", "running", "done", "failed", "cancelled"]


class Progress(BaseModel):
    """A running job's progress."""

    stage: str | None = Field(description="open, tissue, tiles, encode or predict; null at the start", examples=["encode"])
    done: int = Field(description="tiles done", examples=[512])
    total: int = Field(description="total tiles; 0 if not counted yet", examples=[1907])


class JobModel(BaseModel):
    """The model that the job is predicted with."""

    name: str = Field(examples=["default"])
    version: int = Field(examples=[2])


class JobError(BaseModel):
    """Why a job failed."""

    what: str = Field(examples=["slide-1.svs: the slide states no micrometres per pixel"])
    remedy: str = Field(examples=["send it again with mpp"])


class JobLinks(BaseModel):
    """Links to follow."""

    model_config = ConfigDict(populate_by_name=True)

    this: str = Field(alias="self", description="this job", examples=[f"/v1/jobs/{EXAMPLE_ID}"])
    cancel: str | None = Field(description="POST here cancels it; null when it has ended", examples=[None])
    prediction: str | None = Field(
        description="the result; null before the job is done", examples=[f"/v1/predictions/{EXAMPLE_ID}"]
    )


class JobAnswer(BaseModel):
    """A prediction that is queued, in progress, or made."""

    id: str = Field(examples=[EXAMPLE_ID])
    state: State = Field(examples=["running"])
    kind: Literal["bag", "slide"] = Field(description="what it predicts from", examples=["slide"])
    slide_id: str = Field(description="the slide's name", examples=["slide-1"])
    model: JobModel
    progress: Progress
    position: int | None = Field(description="jobs before it in the queue; null if it is not waiting", examples=[None])
    attempts: int = Field(description="number of attempts", examples=[1])
    error: JobError | None = Field(description="why it failed; null otherwise")
    prediction: str | None = Field(description="id of the prediction; null before the job is done", examples=[None])
    created: datetime = Field(examples=[EXAMPLE_TIME])
    started: datetime | None = Field(examples=[EXAMPLE_TIME])
    finished: datetime | None = Field(examples=[None])
    links: JobLinks
    notice: str = Field(default=NOTICE, description="permitted use of the answer")


class JobPage(BaseModel):
    """Jobs, newest first."""

    items: list[JobAnswer]
    next: str | None = Field(description="cursor of the next page; null on the last one", examples=[None])


class UploadRequest(BaseModel):
    """A file to be sent in parts."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"filename": "slide-1.svs", "size": 734003200}]})

    filename: str = Field(min_length=1, max_length=1024, description="the slide gets this name", examples=["slide-1.svs"])
    size: int = Field(gt=0, le=2**53, description="its length in bytes", examples=[734003200])
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of its content; checked when it is complete",
        examples=["0" * 64],
    )


class UploadAnswer(BaseModel):
    """An upload and its progress."""

    id: str = Field(pattern=ID_PATTERN, examples=[EXAMPLE_ID])
    filename: str = Field(description="the name it is stored under", examples=["slide-1.svs"])
    size: int = Field(description="total bytes", examples=[734003200])
    offset: int = Field(description="bytes received; the next part begins here", examples=[16777216])
    part_size: int = Field(description="largest part accepted, in bytes", examples=[16777216])
    complete: bool = Field(description="whether it is complete and can be predicted", examples=[False])
    kind: Literal["bag", "slide"] | None = Field(
        description="detected from its content; null until it is complete", examples=[None]
    )
    slide: str | None = Field(description="id of the slide, null if it is not a slide", examples=[None])
    expires: datetime = Field(description="when it is deleted if nothing more arrives", examples=[EXAMPLE_TIME])


def job_answer(accepted: Accepted) -> JobAnswer:
    """A job as clients see it."""
    job, this = accepted.job, f"/v1/jobs/{accepted.job.id}"
    done = job.state == "done"
    return JobAnswer.model_validate(
        {
            "id": job.id,
            "state": job.state,
            "kind": job.kind,
            "slide_id": job.slide_id,
            "model": {"name": job.model, "version": job.version},
            "progress": {"stage": job.stage, "done": job.done, "total": job.total},
            "position": accepted.place,
            "attempts": job.attempts,
            "error": job.error,
            "prediction": job.id if done else None,
            "created": time_of(job.created),
            "started": time_of(job.started),
            "finished": time_of(job.finished),
            "links": {
                "self": this,
                "cancel": f"{this}/cancel" if job.state in ("queued", "running") else None,
                "prediction": f"/v1/predictions/{job.id}" if done else None,
            },
        }
    )


def upload_answer(upload: Upload, *, part_size: int) -> UploadAnswer:
    """An upload as clients see it. An uploaded slide has the upload's id."""
    kind: Literal["bag", "slide"] | None = "bag" if upload.kind == "bag" else "slide" if upload.kind == "slide" else None
    return UploadAnswer(
        id=upload.id,
        filename=upload.name,
        size=upload.size,
        offset=upload.offset,
        part_size=part_size,
        complete=kind is not None,
        kind=kind,
        slide=upload.id if kind == "slide" else None,
        expires=datetime.fromtimestamp(upload.expires, UTC),
    )


def time_of(seconds: float | None) -> datetime | None:
    """A time of the database as UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
