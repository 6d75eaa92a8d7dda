"""Settings: checking a mapping against a pydantic schema, with errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from comel.base.registry import nearest
from comel.errors import ConfigError

__all__ = ["Name", "Section", "parse_section", "set_key"]


def _as_text(value: Any) -> Any:
    """A number as its text: YAML takes a label such as 0 for one."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_as_text)]
"""A label or a task, as it stands in the manifest."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


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


def set_key(content: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: '{key}' is not a section", "check the key")
    content[keys[-1]] = value
