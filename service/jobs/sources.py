"""The location of a job's file: a slide in its folder, an upload, or a bag accepted with the job."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from comel.base.units import MPP_RANGE
from comel.errors import ComelError
from service.db.tables import Job
from service.errors import needing_room
from service.ids import EXAMPLE_UPLOAD, ID_PATTERN
from service.intake.uploads import UPLOADS

__all__ = ["Inbox"]

INBOX = "inbox"


class Inbox:
    """The folder ``inbox`` of the state folder: bags of accepted jobs, gone when the job has ended."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / INBOX

    def accept(self, path: Path, job: str) -> dict[str, str]:
        """Move a received bag to the inbox, flushed to disk, before its job is committed; returns the job's source.

        Raises:
            NoRoomError: the disk is full.
        """
        folder = self._folder / job
        try:
            with needing_room():
                self._folder.mkdir(mode=0o700, exist_ok=True)
                folder.mkdir()
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(path, folder / path.name)
                for flushed in (folder, self._folder):
                    descriptor = os.open(flushed, os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
        except BaseException:
            self.discard(job)
            raise
        return {"bag": path.name}

    def path(self, job: Job) -> Path:
        """The job's file.

        Raises:
            ComelError: it is gone.
        """
        source = job.source
        if "bag" in source:
            path: Path = self._folder / job.id / source["bag"]
        elif "upload" in source:
            path = self._state_dir / UPLOADS / source["upload"] / source["name"]
        else:
            path = Path(source["path"])
            # What was a file when the job was accepted may have become a link that leads outside.
            if path.resolve() != path:
                raise ComelError("the job's slide is not the file that was named", "name it again")
        if not path.exists():
            raise ComelError("the job's file is gone", "send it again")
        return path

    def discard(self, job: str) -> None:
        """Remove the file accepted with a job that has ended or was not accepted after all."""
        shutil.rmtree(self._folder / job, ignore_errors=True)


class SourceRequest(BaseModel):
    """A slide that lies in the service's slide folders, or a file that was uploaded: one of the two."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"slide": "case-7/slide-1.svs", "webhook": "https://lims.example.org/comel"}],
        },
    )

    slide: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="id of a slide, or its path below a slide folder",
        examples=["case-7/slide-1.svs"],
    )
    upload: str | None = Field(
        default=None, pattern=ID_PATTERN, description="id of a complete upload", examples=[EXAMPLE_UPLOAD]
    )
    model: str | None = Field(default=None, max_length=128, description="name of the model; the default one if not given")
    task: str | None = Field(
        default=None, max_length=256, description="distinguish only the classes of this task", examples=["breast"]
    )
    assume_encoder: str | None = Field(
        default=None, max_length=256, description="the encoder of an uploaded bag's features, if the bag does not state it"
    )
    webhook: str | None = Field(
        default=None, max_length=2000, description="URL that is called when the job has ended", examples=[None]
    )
    mpp: float | None = Field(
        default=None,
        ge=MPP_RANGE[0],
        le=MPP_RANGE[1],
        description="micrometres per pixel of level 0, overriding the slide's own",
        examples=[0.25],
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.slide is None) == (self.upload is None):
            raise ValueError("give one of 'slide' and 'upload'")
        return self
