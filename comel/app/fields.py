"""Fields of a schema in words, and as options of a command: description, default, range, choices."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from comel.app.options import Flag
from comel.base.kinds import kinds_of, kinds_of_elements

__all__ = ["choices_of", "default_of", "field_at", "is_on", "keyword", "option_of", "range_of"]

_UNBOUNDED = 2**31
"""Limits from here on are those of a number type, and no help to a user."""


def field_at(schema: type[BaseModel], key: str) -> FieldInfo | None:
    """The field that ``key``, with dots between sections, names; None inside an open section."""
    *sections, name = key.split(".")
    for section in sections:
        inner = kinds_of(schema.model_fields[section].annotation)[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        schema = inner
    return schema.model_fields[name]


def range_of(field: FieldInfo) -> str:
    """The range of a field's values, such as ``0<=x<1``; empty if it has none."""
    limits: dict[str, float] = {}
    for note in (*field.metadata, *_notes(field.annotation)):
        for name in ("ge", "gt", "le", "lt", "multiple_of"):
            value = getattr(note, name, None)
            if value is not None and abs(value) < _UNBOUNDED:
                limits[name] = value
    lower = [(sign, limits[name]) for name, sign in (("ge", "="), ("gt", "")) if name in limits]
    upper = [(sign, limits[name]) for name, sign in (("le", "="), ("lt", "")) if name in limits]
    if lower and upper:
        said = f"{lower[0][1]:g}<{lower[0][0]}x<{upper[0][0]}{upper[0][1]:g}"
    else:
        said = "".join(f"x{way}{sign}{limit:g}" for way, ends in ((">", lower), ("<", upper)) for sign, limit in ends)
    return ", ".join([said] * bool(said) + [f"a multiple of {limits[name]:g}" for name in limits if name == "multiple_of"])


def choices_of(field: FieldInfo) -> list[str]:
    """The texts that a field or its elements accept; empty if any."""
    kinds = kinds_of(field.annotation)
    kinds += [one for inner in kinds_of_elements(field.annotation) for one in kinds_of(inner)]
    return [str(choice) for one in kinds if get_origin(one) is Literal for choice in get_args(one)]


def default_of(field: FieldInfo) -> str:
    """A field's default as text; empty for none, and for a switch, whose option names the opposite."""
    value = field.default
    if value is None or value is PydanticUndefined or isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def option_of(key: str, field: FieldInfo | None, flag: str | Flag | None) -> inspect.Parameter:
    """The parameter of a field; if not given it is None or False, so that it can be recognised."""
    said = flag if isinstance(flag, Flag) else Flag(flag or _flag_name(key, field))
    if field is None:
        return keyword(key, Annotated[str | None, typer.Option(said.name, help=said.help)], None)
    kind, choices = _kind_of_option(field.rebuild_annotation()), choices_of(field)
    option = typer.Option(
        said.name, help=said.help or _help(field, kind), autocompletion=(lambda: choices) if choices else None
    )
    return keyword(key, Annotated[kind if kind is bool else kind | None, option], False if kind is bool else None)


def keyword(key: str, annotation: Any, default: Any) -> inspect.Parameter:
    name = key.replace(".", "_")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag_name(key: str, field: FieldInfo | None) -> str:
    return f"--{'no-' * is_on(field)}{key.rpartition('.')[2].replace('_', '-')}"


def is_on(field: FieldInfo | None) -> bool:
    """Whether an option turns the field off, because it is on by default."""
    return field is not None and field.default is True


def _kind_of_option(annotation: Any) -> Any:
    """The type that the command line reads: texts for choices, a list for repeatable options."""
    kind = next(one for one in kinds_of(annotation) if one is not type(None))
    if get_origin(kind) in (list, tuple):
        return list[_kind_of_option(kinds_of_elements(kind)[0])]  # type: ignore[misc]
    return kind if kind in (bool, int, float, Path) else str


def _help(field: FieldInfo, kind: Any) -> str:
    said = field.description or ""
    if get_origin(kind) is list:
        said += "; may be repeated"
    notes = []
    if choices := choices_of(field):
        notes.append(f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])
    if field.is_required():
        notes.append("required")
    if default := default_of(field):
        notes.append(f"default: {default}")
    if limits := range_of(field):
        notes.append(limits)
    if not said.partition(" ")[0].endswith(","):  # otherwise it begins with values, such as auto, cpu
        said = said[:1].upper() + said[1:]
    return f"{said}." + (f"  [{'; '.join(notes)}]" if notes else "")


def _notes(annotation: Any) -> list[Any]:
    """The metadata beside the types inside an annotation."""
    if isinstance(annotation, FieldInfo):
        return annotation.metadata
    return [note for inner in get_args(annotation) for note in (_notes(inner) or [inner])]
