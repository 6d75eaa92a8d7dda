"""Settings of a training run: one schema for YAML, ``--set key=value`` and Python.

data:      which manifest and bags, which tasks in which order, how they are split
model:     name: comel, and the model's own options
strategy:  name: owlora, and the strategy's own options
trainer:   epochs, learning rate, device, seed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from comel.base.files import read_bytes
from comel.base.registry import is_user_code
from comel.base.settings import Section, parse_section, set_key
from comel.base.text import first_line
from comel.cohort.config import DataConfig
from comel.errors import ConfigError

__all__ = [
    "CODE_SHA256",
    "RunConfig",
    "TrainerConfig",
    "load_config",
    "without_name",
]

_MAX_BYTES = 16 << 20
CODE_SHA256 = "code_sha256"
"""Key of the sections ``model`` and ``strategy`` whose name is ``FILE.py:Class``: the hash of that file's content."""


class TrainerConfig(Section):
    """How a task is trained."""

    epochs: int = Field(100, ge=1, le=1_000_000, description="passes over a task's training bags")
    early_stopping: int | None = Field(
        None, ge=1, description="end a stage after so many epochs without a lower validation loss, with its best weights"
    )
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate at the start of a task; cosine to zero at its end")
    weight_decay: float = Field(1e-5, ge=0, description="Adam's weight decay")
    max_instances: int | None = Field(None, ge=1, description="instances of a bag to train on at most, drawn anew each epoch")
    clip_norm: float | None = Field(None, gt=0, description="clip the gradient's norm")
    seed: int = Field(2021, ge=0, le=2**32 - 1, description="seed of weights, order, folds, orders of tasks; not of the split")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward pass")
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads; default OMP_NUM_THREADS, else the cores it may use, 16 at most"
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="time between checkpoints, which come after an epoch")


class RunConfig(Section):
    """A whole run; ``model`` and ``strategy`` hold a name and that class's own options."""

    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: dict[str, Any] = Field(default_factory=lambda: {"name": "comel"})
    strategy: dict[str, Any] = Field(default_factory=lambda: {"name": "owlora"})
    trainer: TrainerConfig = Field(default_factory=lambda: TrainerConfig())

    @field_validator("model", "strategy")
    @classmethod
    def _named(cls, section: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Options alone are those of the default."""
        return {"name": "comel" if info.field_name == "model" else "owlora", **section}


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key.key=value`` settings over it; values are read as YAML.

    ``data.manifest``, ``data.bags`` and ``data.root`` in a file are relative to that file.

    Raises:
        ConfigError: not readable, an unknown key (with the nearest), a value that does not fit.
    """
    import yaml

    content: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        loaded = _read_yaml(path)
        if not isinstance(loaded or {}, dict):
            raise ConfigError(f"{path}: holds no settings", "write sections such as 'trainer:'")
        content = loaded or {}
        data = content.get("data")
        if isinstance(data, dict):
            for key in ("manifest", "bags", "root"):
                if isinstance(data.get(key), str):
                    data[key] = path.parent / data[key]
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: no '='", "write --set trainer.epochs=20")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override}: the value is not YAML", "put it in quotes") from None
        set_key(content, key.strip().split("."), value, override)
    return parse_section(RunConfig, content, str(path) if path else "settings")


def _read_yaml(path: Path) -> Any:
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path}: no such file", "check the path of --config")
    try:
        return yaml.safe_load(read_bytes(path, _MAX_BYTES).decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML ({first_line(error)})", "correct the file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})", "check the path of --config") from None


def without_name(section: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model's or strategy's section."""
    about = {"name", CODE_SHA256} if is_user_code(str(section.get("name"))) else {"name"}
    return {key: value for key, value in section.items() if key not in about}
