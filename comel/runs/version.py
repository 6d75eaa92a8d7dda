"""``model.json``: everything about a version that is not a weight."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from comel.bags.contract import FeatureContract
from comel.base.units import Mode
from comel.cohort.classes import ClassSpace, Head

__all__ = ["TaskInfo", "VersionInfo"]


class TaskInfo(BaseModel):
    """A task that a version has learned: its head, what was chosen on its validation cases (the instance threshold, the
    temperature, the distance beyond which a bag is of another kind), and which slides were in which split, so that no later
    evaluation takes a training slide for a test slide."""

    model_config = ConfigDict(extra="forbid")

    name: str
    head: int
    stage: int
    threshold: float = 0.5
    threshold_chosen_on: str = "default"
    temperature: float = 1.0
    distance_threshold: float | None = None
    training_cases: int = 0
    slides: dict[str, list[str]] = {}


class VersionInfo(BaseModel):
    """``model.json``: everything about a version that is not a weight."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    version: int
    run: str
    created: str
    comel_version: str
    mode: Mode
    model: dict[str, Any]
    strategy: dict[str, Any]
    tasks: list[TaskInfo]
    stages: int
    contract: dict[str, Any]
    report: dict[str, Any] = {}

    @property
    def classes(self) -> ClassSpace:
        """What the version tells apart."""
        return ClassSpace.of(Head.from_dict(head) for head in self.model["heads"])

    @property
    def feature_contract(self) -> FeatureContract:
        """The contract that bags must fulfil."""
        return FeatureContract(**self.contract)

    @property
    def distance_threshold(self) -> float | None:
        """The distance from which a slide is flagged as unlike all that was learned; None where none was chosen.

        The largest of all tasks: distances mean the same for every task, and a smaller threshold was chosen while less was
        known of how bags spread.
        """
        return max((info.distance_threshold for info in self.tasks if info.distance_threshold is not None), default=None)
