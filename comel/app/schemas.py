"""Options of commands beyond one package's settings: where an extraction works, how predictions are read and written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from comel.base.registry import nearest
from comel.base.settings import Mpp, Name, Section
from comel.base.units import MPP_RANGE
from comel.errors import ComelError, ConfigError
from pipelines.extraction.settings import ExtractSettings

__all__ = ["EvaluateOptions", "ExtractOptions", "PredictOptions", "given", "with_keywords"]

Function = TypeVar("Function", bound=Callable[..., Any])


class ExtractOptions(ExtractSettings):
    """Options of ``comel extract``: what is extracted, and where and how."""

    root: Path | None = Field(None, description="folder that the manifest's paths start from; default its own")
    workers: int | None = Field(
        None, ge=1, description="slides at the same time; default one per CUDA device, otherwise one per eight cores"
    )
    time_limit: float | None = Field(
        None, ge=1, description="most seconds per slide; one without progress for 15 minutes is stopped anyway"
    )
    worker_memory: float | None = Field(
        None, ge=0.1, description="most memory of one worker in GiB; a slide that needs more fails"
    )
    retry_failed: bool = Field(False, description="work only on slides that failed")
    verify: bool = Field(False, description="read and check every existing bag")
    force: bool = Field(False, description="redo complete slides too")
    wait: bool = Field(True, description="wait for slides that other processes work on")
    engine: str = Field("local", description="local, or dask: the workers of a Dask scheduler")
    scheduler: str | None = Field(None, description="address of the Dask scheduler")
    scheduler_file: Path | None = Field(None, description="the scheduler's file, instead of its address")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")

    @field_validator("engine")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("local", "dask"):
            raise ConfigError(f"--engine: no '{value}'", nearest(value, ["local", "dask"]))
        return value

    def extraction(self) -> ExtractSettings:
        """The settings that determine a bag's content."""
        return ExtractSettings.model_construct(**{name: getattr(self, name) for name in ExtractSettings.model_fields})


class PredictOptions(Section):
    """Options of ``comel predict``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Name | None = Field(None, description="the task, if it is known; the prediction is then within it")
    bags: Path | None = Field(
        None, description="folder with existing bags of a manifest's slides; without it they are extracted"
    )
    slide: Path | None = Field(None, description="the slide of a single bag, to draw its map on")
    root: Path | None = Field(None, description="folder that a manifest's paths start from; default its own")
    table: Path | None = Field(None, description="table to write, .csv or .parquet; default OUT/predictions.csv")
    mpp: float | None = Field(
        None, description="micrometres per pixel of slides given directly, overriding their own; 0.05 to 20"
    )
    assume_mpp: Mpp | None = Field(None, description="micrometres per pixel of slides that do not state it")
    assume_encoder: str | None = Field(None, description="encoder of feature files that do not state one")
    encoder: str | None = Field(
        None, description="location of the model's patch encoder: NAME:FOLDER or file.py:Class; default by its name"
    )
    tissue_folder: Path | None = Field(
        None,
        description="folder of your own tissue outlines, <slide_id>.geojson, .png, ...; for slides outside a manifest, "
        "<file name>.geojson, ...; needed if the model was trained with them",
    )
    width: int = Field(1024, description="width of the map picture in pixels, 256 or more")
    merge: bool = Field(False, description="GeoJSON of regions instead of tiles")
    version: int | None = Field(None, description="version of the run; default the current one")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N, for the model and the patch encoder")

    @field_validator("mpp")
    @classmethod
    def _of_a_microscope(cls, value: float | None) -> float | None:
        if value is not None and not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
            allowed = f"{MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}"
            raise ConfigError(f"--mpp {value:g}: no slide has such a resolution ({allowed})", "correct --mpp")
        return value


class EvaluateOptions(Section):
    """Options of ``comel evaluate``."""

    manifest: Path = Field(description="labelled cases of tasks that the run has learned")
    bags: Path = Field(description="their feature files")
    tasks: list[Name] | None = Field(None, description="only these tasks")
    version: int | None = Field(None, description="version of the run; default the current one")
    split: str = Field("test", description="train, val, test or all")
    table: Path | None = Field(None, description="CSV to write the predictions of single cases to")
    root: Path | None = Field(None, description="folder that the manifest's paths start from and lie in; default its own")
    assume_encoder: str | None = Field(None, description="encoder of feature files that do not state one")
    skip_missing: bool = Field(False, description="leave out slides without features instead of stopping")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")

    @field_validator("split")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("train", "val", "test", "all"):
            raise ComelError(f"--split {value}: no such split", "give train, val, test or all")
        return value


def given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords with a value: None means the default."""
    return {name: value for name, value in settings.items() if value is not None}


def with_keywords(schema: type[BaseModel]) -> Callable[[Function], Function]:
    """Give a function that takes ``**settings`` of a schema a signature that names each of them."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        fixed = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(), annotation=field.annotation)
            for name, field in schema.model_fields.items()
        ]
        function.__signature__ = signature.replace(parameters=[*fixed, *named])  # type: ignore[attr-defined]
        return function

    return decorate
