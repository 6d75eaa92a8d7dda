"""Settings of a training run: one schema for YAML, ``--set key=value`` and Python.

data:      which manifest and bags, which tasks in which order, how they are split
model:     name: comel, and the model's own options
strategy:  name: owlora, and the strategy's own options
trainer:   epochs, learning rate, device, seed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from comel.errors import ConfigError
from comel.registry import nearest

__all__ = ["DataConfig", "RunConfig", "TrainerConfig", "load_config", "parse_section"]


def _as_text(value: Any) -> Any:
    """A number as its text: YAML takes a label such as 0 for one."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_as_text)]
"""A label or a task, as it stands in the manifest."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class DataConfig(_Section):
    """Which bags, and how they make up tasks."""

    manifest: Path | None = Field(None, description="the cohort's CSV")
    bags: Path | None = Field(None, description="folder of feature files, <slide_id>.h5 or another tool's layout")
    root: Path | None = Field(None, description="folder that the manifest's relative paths start from; default its own")
    tasks: list[Name] | None = Field(None, description="tasks in the order they arrive; default order of first appearance")
    mode: Literal["class-incremental", "domain-incremental"] = Field(
        "class-incremental", description="a class is (task, label), or all tasks share one label set and one head"
    )
    negative: Name = Field("normal", description="label of slides without a finding; a task may have none")
    labels: dict[Name, list[Name]] | None = Field(None, description="labels of each task in column order")
    val_fraction: float = Field(0.15, ge=0, lt=1, description="share of validation where the manifest has no split")
    test_fraction: float = Field(0.25, ge=0, lt=1, description="share of test where the manifest has no split")
    fold: int | None = Field(None, ge=0, description="test on this fold of the manifest instead")
    skip_missing: bool = Field(False, description="leave out slides without features instead of stopping")
    assume_encoder: str | None = Field(None, description="encoder of feature files that do not name theirs")
    cache_gib: float = Field(2.0, ge=0, description="memory for bags that are kept between epochs, in GiB")


class TrainerConfig(_Section):
    """How a task is trained."""

    epochs: int = Field(100, ge=1, description="passes over a task's training bags")
    early_stopping: int | None = Field(
        None, ge=1, description="end a stage after so many epochs without a lower validation loss, with its best weights"
    )
    lr: float = Field(1e-4, gt=0, description="Adam's learning rate at the start of a task; cosine to zero at its end")
    weight_decay: float = Field(1e-5, ge=0, description="Adam's weight decay")
    max_instances: int | None = Field(None, ge=1, description="instances of a bag to train on at most, drawn anew each epoch")
    clip_norm: float | None = Field(None, gt=0, description="clip the gradient's norm")
    seed: int = Field(2021, ge=0, description="seed of weights, order, folds and orders of tasks; not of the split")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward pass")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; default OMP_NUM_THREADS, else the cores it may use, 16 at most"
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="time between checkpoints, which come after an epoch")


class RunConfig(_Section):
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
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", "check the path of --config")
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not YAML ({str(error).splitlines()[0]})", "correct the file") from None
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
        _set(content, key.strip().split("."), value, override)
    return parse_section(RunConfig, content, str(path) if path else "settings")


def parse_section(schema: type[BaseModel], content: Mapping[str, Any], where: str) -> Any:
    """Validate settings; the first problem becomes one line that names the key and, for an unknown one, the nearest.

    Raises:
        ConfigError: as said.
    """
    try:
        return schema.model_validate(dict(content))
    except ValidationError as error:
        problem = error.errors()[0]
        location = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            known = _keys(schema, location[:-1])
            raise ConfigError(f"{where}: unknown key '{'.'.join(location)}'", nearest(location[-1], known)) from None
        value = str(problem["input"]) if isinstance(problem["input"], Path) else problem["input"]
        given = "" if isinstance(value, dict) else f" (given: {value!r})"
        said = ": ".join([where, *([".".join(location)] if location else []), problem["msg"].removeprefix("Value error, ")])
        raise ConfigError(f"{said}{given}", "correct the value") from None


def _keys(schema: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        factory = schema.model_fields[part].default_factory if part in schema.model_fields else None
        if factory is None:
            break
        schema = type(factory())  # type: ignore[call-arg]
    return list(schema.model_fields)


def _set(content: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: '{key}' is not a section", "check the key")
    content[keys[-1]] = value
