"""Settings: a mapping from a file, from ``--set`` and from options, checked against a pydantic schema; errors name the key."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from comel.base.files import read_bytes
from comel.base.kinds import kind_at
from comel.base.numbers import beyond_range
from comel.base.registry import nearest
from comel.base.units import MPP_RANGE
from comel.errors import ConfigError

__all__ = [
    "Mpp",
    "Name",
    "Section",
    "apply_overrides",
    "comma_separated",
    "gather",
    "load_yaml",
    "parse_section",
    "set_key",
]


def _as_text(value: Any) -> Any:
    """A number as text: from Python, a label such as 0 may be a number."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Name = Annotated[str, BeforeValidator(_as_text)]
"""A label or a task, as written in the manifest."""

Mpp = Annotated[float, Field(ge=MPP_RANGE[0], le=MPP_RANGE[1])]
"""Micrometres per pixel."""


def comma_separated(value: Any) -> Any:
    """``red,green`` as a tuple of its words; ``none`` as an empty one."""
    if not isinstance(value, str):
        return value
    return () if value.strip() == "none" else tuple(word.strip() for word in value.split(","))


_ABSENT: Any = object()
_MAX_BYTES = 16 << 20
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


def load_yaml(path: Path, kind: Any = dict[str, Any], *, relative: bool = True) -> dict[str, Any]:
    """The settings in a YAML file. Values that ``kind`` declares as text, such as labels, are read literally: ``007``, ``no``.

    Args:
        path: the file.
        kind: the schema of the settings.
        relative: whether relative paths start from the file's folder; otherwise they stay unchanged.

    Raises:
        ConfigError: not readable, not YAML, or not a mapping. Keys and values are not checked here.
    """
    from comel.base.yaml_text import read_yaml

    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})", "check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not YAML (not UTF-8)", "correct the file") from None
    content = read_yaml(text, kind, str(path), path.parent if relative else None)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no settings: it is not a mapping", "write one 'KEY: VALUE' per line")
    return content


def apply_overrides(content: dict[str, Any], overrides: Iterable[str], kind: Any, example: str = "trainer.epochs=20") -> None:
    """Put ``KEY=VALUE`` and ``SECTION.KEY=VALUE`` of ``--set`` into settings; values are read as YAML, as in a file.

    Raises:
        ConfigError: no ``=``, a value that is not YAML, or a key inside a value that is not a section.
    """
    from comel.base.yaml_text import read_yaml

    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: no '='", f"write --set {example}")
        keys = key.strip().split(".")
        try:
            value = read_yaml(text, kind_at(kind, keys), f"--set {override}")
        except ConfigError:
            raise ConfigError(f"--set {override}: the value is not YAML", "put it in quotes") from None
        set_key(content, keys, value, override)


def gather(
    kind: type[BaseModel],
    where: str,
    *,
    files: Sequence[Path] = (),
    overrides: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    example: str = "trainer.epochs=20",
) -> tuple[dict[str, Any], Callable[[Sequence[str]], str]]:
    """Settings from all sources: options override ``--set``, which overrides files; a later file overrides earlier ones.

    Args:
        kind: their schema.
        where: the source that errors name if no file has the value, such as the command.
        files: YAML files.
        overrides: see :func:`apply_overrides`.
        options: values by key, with dots between section and key.
        example: an example of an override, for messages.

    Returns:
        The settings, and a function that tells where the value at a location comes from, for :func:`parse_section`.

    Raises:
        ConfigError: see :func:`load_yaml` and :func:`apply_overrides`.
    """
    content: dict[str, Any] = {}
    stated: list[tuple[Path, dict[str, Any]]] = []
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file}: no such file", "check the path of --config")
        stated.append((file, load_yaml(file, kind)))
        _merge(content, stated[-1][1])
    apply_overrides(content, overrides, kind, example)
    for key, value in (options or {}).items():
        set_key(content, key.split("."), value, f"{key}={value}")

    def place(location: Sequence[str]) -> str:
        value = _at(content, location)
        named = [str(file) for file, values in stated if value is not _ABSENT and _at(values, location) == value]
        return named[-1] if named else where

    return content, place


def parse_section(schema: type[Model], content: Mapping[str, Any], where: str | Callable[[Sequence[str]], str]) -> Model:
    """Validate settings; the first problem becomes one line that names the key and, for an unknown one, the nearest.

    Args:
        schema: the settings' schema.
        content: the settings.
        where: the text before the key in errors, or a function that returns it for the key's location.

    Raises:
        ConfigError: the first key or value that does not fit.
    """
    try:
        chosen = schema.model_validate(dict(content))
    except ValidationError as error:
        problem = error.errors()[0]
        location = [str(part) for part in problem["loc"]]
        place = where if isinstance(where, str) else where(location)
        if problem["type"] == "missing":
            raise ConfigError(f"{place}: '{'.'.join(location)}' is missing", "give it") from None
        if problem["type"] == "extra_forbidden":
            known = _keys(schema, location[:-1])
            raise ConfigError(f"{place}: unknown key '{'.'.join(location)}'", nearest(location[-1], known)) from None
        value = str(problem["input"]) if isinstance(problem["input"], Path) else problem["input"]
        given = "" if isinstance(value, dict) else f" (given: {value!r})"
        said = ": ".join([place, *([".".join(location)] if location else []), problem["msg"].removeprefix("Value error, ")])
        raise ConfigError(f"{said}{given}", "correct the value") from None
    if (beyond := beyond_range(chosen)) is not None:
        keys, number = beyond
        given = f"{number:g}" if isinstance(number, float) else f"an integer of {number.bit_length()} bits"
        place = where if isinstance(where, str) else where(keys)
        raise ConfigError(f"{place}: {'.'.join(keys)}: Input should be a number in range (given: {given})", "correct the value")
    return chosen


def set_key(content: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {override}: '{key}' is not a section", "check the key")
    content[keys[-1]] = value


def _merge(content: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Merge ``more`` into settings, section by section; a value, such as a list, replaces the one before it."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = copy.deepcopy(value)


def _at(content: Any, location: Sequence[str]) -> Any:
    """The value at a location; for a list's element, the list."""
    for part in location:
        if isinstance(content, list):
            break
        content = content.get(part, _ABSENT) if isinstance(content, dict) else _ABSENT
    return content


def _keys(schema: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        factory = schema.model_fields[part].default_factory if part in schema.model_fields else None
        if factory is None:
            break
        schema = type(factory())  # type: ignore[call-arg]
    return list(schema.model_fields)
