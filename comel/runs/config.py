"""Settings of a training run: one schema for YAML, ``--set key=value`` and Python.

data:      which manifest and bags, which tasks in which order, how they are split
model:     name: comel, and the model's own options
strategy:  name: owlora, and the strategy's own options
trainer:   epochs, learning rate, device, seed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from comel.base.numbers import MOST_SEED
from comel.base.registry import is_user_code
from comel.base.settings import Section, gather, parse_section
from comel.cohort.config import DataConfig

__all__ = [
    "CODE_SHA256",
    "SHORT_PRECISIONS",
    "RunConfig",
    "TrainerConfig",
    "load_config",
    "without_name",
]

CODE_SHA256 = "code_sha256"
"""Key in the sections ``model`` and ``strategy`` if their name is ``FILE.py:Class``: the hash of that file's content."""

_MAX_NAME = 1000

SHORT_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
"""Precisions as version 0.1.0 wrote them; its settings are still read."""


def _spelt_out(value: Any) -> Any:
    return next((name for name, short in SHORT_PRECISIONS.items() if value == short), value)


class TrainerConfig(Section):
    """How a task is trained."""

    epochs: int = Field(100, ge=1, le=1_000_000, description="passes over a task's training bags")
    early_stopping: int | None = Field(
        None, ge=1, description="end a stage after this many epochs without a lower validation loss, with its best weights"
    )
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate at the start of a task; cosine to zero at its end")
    weight_decay: float = Field(1e-5, ge=0, description="Adam's weight decay")
    max_instances: int | None = Field(
        None, ge=1, description="train on at most this many instances per bag, redrawn each epoch"
    )
    clip_norm: float | None = Field(None, gt=0, description="clip the gradient's norm")
    seed: int = Field(2021, ge=0, le=MOST_SEED, description="seed of weights, order, folds and task orders; not of the split")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Annotated[Literal["float32", "bfloat16"], BeforeValidator(_spelt_out)] = Field(
        "float32", description="number type of the forward pass"
    )
    threads: int | None = Field(
        None, ge=1, le=4096, description="CPU threads; default OMP_NUM_THREADS, else the cores it may use, at most 16"
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="time between checkpoints, which come after an epoch")


class RunConfig(Section):
    """A whole run; ``model`` and ``strategy`` hold a name and that class's options."""

    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: dict[str, Any] = Field(default_factory=lambda: {"name": "comel"})
    strategy: dict[str, Any] = Field(default_factory=lambda: {"name": "owlora"})
    trainer: TrainerConfig = Field(default_factory=lambda: TrainerConfig())

    @field_validator("model", "strategy")
    @classmethod
    def _named(cls, section: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Options without a name belong to the default class."""
        if len(str(section.get("name"))) > _MAX_NAME:
            raise ValueError(f"name: longer than {_MAX_NAME} characters")
        return {"name": "comel" if info.field_name == "model" else "owlora", **section}


def load_config(
    path: Path | None = None,
    overrides: Iterable[str] = (),
    *,
    over: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The settings of a YAML file, overridden by other settings.

    Relative paths in a file start from its folder. Labels and tasks are read literally: ``007`` is not 7, ``no`` is not false.

    Args:
        path: the file; None for the defaults.
        overrides: ``SECTION.KEY=VALUE``, parsed as in a file.
        over: a second file, which overrides the first.
        options: values by ``SECTION.KEY``, which override all others.

    Raises:
        ConfigError: not readable, an unknown key (with the nearest), a value that does not fit.
    """
    files = [Path(file) for file in (path, over) if file is not None]
    return parse_section(RunConfig, *gather(RunConfig, "settings", files=files, overrides=overrides, options=options))


def without_name(section: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model's or strategy's section."""
    about = {"name", CODE_SHA256} if is_user_code(str(section.get("name"))) else {"name"}
    return {key: value for key, value in section.items() if key not in about}
