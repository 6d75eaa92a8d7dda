"""Settings of the data of a run: which manifest and bags, and how they make up tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from comel.base.settings import Name, Section
from comel.base.units import Mode

__all__ = ["DataConfig"]


class DataConfig(Section):
    """Which bags, and how they make up tasks."""

    manifest: Path | None = Field(None, description="the cohort's CSV")
    bags: Path | None = Field(None, description="folder of feature files, <slide_id>.h5 or another tool's layout")
    root: Path | None = Field(None, description="folder that the manifest's relative paths start from; default its own")
    tasks: list[Name] | None = Field(None, description="tasks in the order they arrive; default order of first appearance")
    mode: Literal[Mode.CLASS, Mode.DOMAIN] = Field(
        Mode.CLASS, description="a class is (task, label), or all tasks share one label set and one head"
    )
    negative: Name = Field("normal", description="label of slides without a finding; a task may have none")
    labels: dict[Name, list[Name]] | None = Field(None, description="labels of each task in column order")
    val_fraction: float = Field(0.15, ge=0, lt=1, description="share of validation if the manifest has no split")
    test_fraction: float = Field(0.25, ge=0, lt=1, description="share of test if the manifest has no split")
    fold: int | None = Field(None, ge=0, description="test on this fold of the manifest instead")
    skip_missing: bool = Field(False, description="leave out slides without features instead of stopping")
    assume_encoder: str | None = Field(None, description="encoder of feature files that do not state one")
    cache_gib: float = Field(2.0, ge=0, description="memory for bags cached between epochs, in GiB")
