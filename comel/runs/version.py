"""``model.json``: everything about a version except its weights. It may come from anyone, so all of it is checked."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from comel.bags.contract import FeatureContract
from comel.base.files import is_plain, read_json
from comel.base.formats import check_format
from comel.base.text import first_line, is_text
from comel.base.units import Mode
from comel.cohort.classes import ClassSpace, Head
from comel.cohort.config import DataConfig
from comel.cohort.manifest import SPLITS
from comel.cohort.seen import Seen
from comel.errors import ComelError, RunError

__all__ = ["FORMAT", "ModelDescription", "TaskInfo", "VersionInfo", "parse_contract", "read_version", "stored_contract"]

FORMAT = 2
"""The format of ``model.json``. Format 2 has the patients of each split and the hash of a user's own code; 1 is still read."""

MAX_DIMENSION = 1 << 20
_MAX_HEADS, _MAX_CLASSES = 1000, 10_000
_MAX_TILE = 1 << 20
_MAX_STAGES = 100_000
_MAX_TEXT = 1000


def _text(value: str) -> str:
    if not is_text(value):
        raise ValueError("contains control characters")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"longer than {_MAX_TEXT} characters")
    return value


Text = Annotated[str, AfterValidator(_text)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TaskInfo(_Stored):
    """A task that a version has learned: its head, what was chosen on its validation cases (the instance threshold, the
    temperature, the distance beyond which a bag is of another kind), and which slides and patients were in which split, so
    that no later training or evaluation takes a training slide for a test slide or a test slide for a training slide."""

    name: Text
    head: int = Field(ge=0)
    stage: int = Field(ge=0)
    threshold: float = 0.5
    threshold_chosen_on: Text = "default"
    temperature: float = Field(1.0, gt=0)
    distance_threshold: float | None = None
    training_cases: int = Field(0, ge=0)
    slides: dict[str, list[Text]] = {}
    patients: dict[str, list[Text]] = {}
    """Keys that distinguish patients without naming them (:func:`comel.cohort.seen.patient_key`); empty in format 1."""

    @field_validator("slides", "patients")
    @classmethod
    def _by_split(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        if not set(value) <= set(SPLITS):
            raise ValueError(f"are by split, {', '.join(SPLITS)}")
        return value


class _StoredHead(_Stored):
    name: Text
    labels: list[Text] = Field(min_length=2, max_length=_MAX_CLASSES)
    negative: Text | None


class ModelDescription(_Stored):
    """What rebuilds an untrained model of the same shape."""

    name: Text
    dimension: int = Field(ge=1, le=MAX_DIMENSION)
    options: dict[str, Any]
    heads: list[_StoredHead] = Field(min_length=1, max_length=_MAX_HEADS)
    code_sha256: Sha256 | None = None
    """SHA-256 of the file with the user's own model; None for others, and in format 1."""

    @model_validator(mode="after")
    def _heads_differ(self) -> ModelDescription:
        try:
            classes = ClassSpace.of(Head(head.name, tuple(head.labels), head.negative) for head in self.heads)
        except ComelError as error:
            raise ValueError(error.what) from None
        if len(classes) > _MAX_CLASSES:
            raise ValueError(f"{len(classes)} classes")
        return self


class _StoredContract(_Stored):
    encoder: Text | None
    weights_hash: Text | None
    dimension: int = Field(ge=1, le=MAX_DIMENSION)
    mpp: float | None = Field(gt=0, le=1e4)
    tile_size: int | None = Field(ge=1, le=_MAX_TILE)
    reading: dict[str, Any] = {}
    joined_mpp: list[Annotated[float, Field(gt=0, le=1e4)]] = Field([], max_length=8)
    code_sha256: Sha256 | None = None


class VersionInfo(_Stored):
    """``model.json``: everything about a version except its weights."""

    format: int = FORMAT
    version: int = Field(ge=1)
    run: Text
    created: Text
    comel_version: Text
    mode: Annotated[Mode, Field(strict=False)]
    model: dict[str, Any]
    strategy: dict[str, Any]
    tasks: list[TaskInfo] = Field(min_length=1)
    stages: int = Field(ge=1, le=_MAX_STAGES)
    contract: dict[str, Any]
    report: dict[str, Any] = {}

    @field_validator("mode")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in get_args(DataConfig.model_fields["mode"].annotation):
            raise ValueError("not a known mode")
        return value

    @field_validator("model")
    @classmethod
    def _describes_a_model(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check(ModelDescription, value)
        return value

    @field_validator("strategy")
    @classmethod
    def _names_a_strategy(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(name := value.get("name"), str) or not is_text(name):
            raise ValueError("does not name a strategy")
        return value

    @field_validator("contract", mode="before")
    @classmethod
    def _is_a_contract(cls, value: Any) -> Any:
        if isinstance(value, dict):
            _check(_StoredContract, value)
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> VersionInfo:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"the task '{next(name for name in names if names.count(name) > 1)}' appears twice")
        for task in self.tasks:
            if task.head >= len(self.model["heads"]):
                raise ValueError(f"task '{task.name}' has head {task.head} of {len(self.model['heads'])}")
            if task.stage >= self.stages:
                raise ValueError(f"task '{task.name}' was learned in stage {task.stage} of {self.stages}")
        if self.contract["dimension"] != self.model["dimension"]:
            raise ValueError(f"the model takes {self.model['dimension']} features, the contract {self.contract['dimension']}")
        return self

    @property
    def classes(self) -> ClassSpace:
        """The classes that the version distinguishes."""
        return ClassSpace.of(Head.from_dict(head) for head in self.model["heads"])

    @property
    def seen(self) -> Seen:
        """The slides and patients of all tasks that were learned, by split."""
        seen = Seen()
        for task in self.tasks:
            seen.add(task.name, task.slides, task.patients)
        return seen

    @property
    def feature_contract(self) -> FeatureContract:
        """The contract that bags must meet."""
        return FeatureContract(**self.contract)

    @property
    def distance_threshold(self) -> float | None:
        """The distance from which a slide is flagged as unlike anything learned; None if none was chosen.

        The largest over all tasks: distances mean the same for every task, and a smaller threshold was chosen when less was
        known about the spread of bags.
        """
        return max((info.distance_threshold for info in self.tasks if info.distance_threshold is not None), default=None)


def stored_contract(contract: FeatureContract) -> dict[str, Any]:
    """A contract as stored in ``model.json``; the hash of a user's own code is left out if not stated."""
    values = {field.name: getattr(contract, field.name) for field in fields(contract)}
    values |= {"reading": dict(contract.reading), "joined_mpp": list(contract.joined_mpp)}
    return {name: value for name, value in values.items() if name != "code_sha256" or value is not None}


def parse_contract(value: Any) -> FeatureContract:
    """The inverse of :func:`stored_contract`.

    Raises:
        ValueError: it is not a feature contract.
    """
    if not isinstance(value, dict):
        raise ValueError("not a feature contract")
    _check(_StoredContract, value)
    return FeatureContract(**value)


def read_version(path: Path) -> VersionInfo:
    """Read ``model.json``. Its format is checked first: a newer comel may have written everything else differently.

    Raises:
        RunError: it is missing, damaged, or in a newer format.
    """
    try:
        if not is_plain(path):
            raise ValueError("no such file" if not path.exists() else "a link, a folder, a pipe or a device")
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError("not a description of a model")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    check_format(path, content.setdefault("format", 1), FORMAT, content.get("comel_version"), RunError)
    try:
        return VersionInfo.model_validate(content)
    except ValidationError as error:
        raise _damaged(path, _first_problem(error)) from None


def _check(schema: type[BaseModel], value: dict[str, Any]) -> None:
    try:
        schema.model_validate(value)
    except ValidationError as error:
        raise ValueError(_first_problem(error)) from None


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    return ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), message])


def _damaged(path: Path, error: Exception | str) -> RunError:
    said = first_line(error) if isinstance(error, Exception) else error
    return RunError(f"{path}: damaged ({said})", "restore the run from a copy")
