"""Options of a command from a schema: one for each field, with its description, default and range; ``--config`` and ``--set``.

A command names its schema and takes what the user gave of it::

    @options_of("comel.app.schemas:ExtractOptions", names={"positive_classes": "--positive"})
    def extract(manifest: ..., out: ..., given: Given[ExtractOptions]) -> None:
        options = given.settings()

Register it with ``cls=LazyCommand``: only a call of it, or of its help, imports the schema.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperCommand

from comel.base.kinds import kinds_of, kinds_of_elements
from comel.base.settings import gather, parse_section

__all__ = ["Flag", "Given", "LazyCommand", "choices_of", "default_of", "field_at", "options_of", "range_of"]

Schema = TypeVar("Schema", bound=BaseModel)

_UNBOUNDED = 2**31
"""Limits from here on are those of a type of number, and no help to a user."""


@dataclass(frozen=True)
class Flag:
    """An option that is called otherwise than its field, or whose help is not the field's description."""

    name: str
    help: str | None = None


@dataclass(frozen=True)
class Given(Generic[Schema]):
    """What a user gave of a schema's settings.

    Attributes:
        schema: their schema.
        command: whose settings they are.
        config: the file of ``--config``.
        overrides: ``KEY=VALUE`` of ``--set``.
        options: values of options by key.
        example: of ``--set``, for messages.
    """

    schema: type[Schema]
    command: str
    config: Path | None
    overrides: list[str]
    options: dict[str, Any]
    example: str

    def __bool__(self) -> bool:
        """Whether anything was given."""
        return bool(self.config or self.overrides or self.options)

    def settings(self) -> Schema:
        """All settings: an option wins over ``--set``, this over the file, the file over the default.

        Raises:
            ConfigError: a file, a key or a value that does not fit.
        """
        files = [] if self.config is None else [self.config]
        found = gather(
            self.schema, self.command, files=files, overrides=self.overrides, options=self.options, example=self.example
        )
        settings: Schema = parse_section(self.schema, *found)
        return settings


@dataclass(frozen=True)
class _Options:
    """How a command's options are made from a schema, ``module:Class``."""

    schema: str
    only: tuple[str, ...] | None
    names: Mapping[str, str | Flag]
    config: str | None
    example: str
    command: str | None

    def on(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function, its parameter ``given`` replaced by options."""
        module, _, name = self.schema.partition(":")
        schema: type[BaseModel] = getattr(importlib.import_module(module), name)
        keys = {key.replace(".", "_"): key for key in self.only or schema.model_fields}
        hints = get_type_hints(function, localns={name: schema}, include_extras=True)
        parameters = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name != "given":
                kept = parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
                parameters.append(kept)
                continue
            parameters += [_parameter(key, field_at(schema, key), self.names.get(key)) for key in keys.values()]
            parameters += self._sources()
        inverted = {key for key in keys.values() if _is_on(field_at(schema, key))}

        def command(**values: Any) -> None:
            read = {key: values.pop(name) for name, key in keys.items()}
            options = {key: value for key, value in read.items() if value is not None and value is not False}
            options |= dict.fromkeys(inverted & options.keys(), False)
            config, overrides = values.pop("config", None), values.pop("set") or []
            where = self.command or function.__name__.replace("_", "-")
            function(**values, given=Given(schema, where, config, overrides, options, self.example))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    def _sources(self) -> list[inspect.Parameter]:
        overrides = typer.Option("--set", help=f"A setting, such as {self.example}; may be repeated.")
        found = [_keyword("set", Annotated[list[str] | None, overrides], None)]
        if self.config is not None:
            found.insert(0, _keyword("config", Annotated[Path | None, typer.Option(help=self.config)], None))
        return found


def options_of(
    schema: str,
    *,
    only: Sequence[str] | None = None,
    names: Mapping[str, str | Flag] | None = None,
    config: str | None = "YAML file of settings; options and --set win over it.",
    example: str,
    command: str | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options from a schema in place of its parameter ``given``, for :class:`LazyCommand`.

    Args:
        schema: ``module:Class`` of a pydantic model.
        only: keys that become options, in order; ``section.key`` inside of a section. Default all fields. The others can be
            given by ``--set`` and in the file.
        names: options that differ from their field.
        config: help of ``--config``; None if the schema has a field for its file.
        example: of ``--set``.
        command: what errors name, if it is not the function's name.
    """
    options = _Options(schema, tuple(only) if only is not None else None, names or {}, config, example, command)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def bare() -> None:
            raise NotImplementedError(f"{function.__name__} is registered without cls=LazyCommand")

        bare.__name__, bare.__doc__, bare.__module__ = function.__name__, function.__doc__, function.__module__
        bare.made = lambda: options.on(function)  # type: ignore[attr-defined]
        return bare

    return decorate


class LazyCommand(TyperCommand):
    """A command of :func:`options_of`."""

    def made(self) -> Any:
        """The command with its options."""
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        callback: Any = self.callback
        single.command(self.name, help=self.help, epilog=self.epilog)(callback.made())
        return typer.main.get_command(single)

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        """The context of the command with its options, which then takes the place of this one."""
        return self.made().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Call the command that the context is of."""
        return ctx.command.invoke(ctx)


def field_at(schema: type[BaseModel], key: str) -> FieldInfo | None:
    """The field that ``key``, with dots between sections, names; None inside of a section that is open."""
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
    """The texts that a field takes, or that its elements take; empty if it takes any."""
    kinds = kinds_of(field.annotation)
    kinds += [one for inner in kinds_of_elements(field.annotation) for one in kinds_of(inner)]
    return [str(choice) for one in kinds if get_origin(one) is Literal for choice in get_args(one)]


def default_of(field: FieldInfo) -> str:
    """A field's default as text; empty for none, and for a switch, whose option is the other way."""
    value = field.default
    if value is None or value is PydanticUndefined or isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameter(key: str, field: FieldInfo | None, flag: str | Flag | None) -> inspect.Parameter:
    """The parameter of a field; without a value it is None or False, so that what was not given is known."""
    said = flag if isinstance(flag, Flag) else Flag(flag or _flag_name(key, field))
    if field is None:
        return _keyword(key, Annotated[str | None, typer.Option(said.name, help=said.help)], None)
    kind, choices = _kind_of_option(field.rebuild_annotation()), choices_of(field)
    option = typer.Option(
        said.name, help=said.help or _help(field, kind), autocompletion=(lambda: choices) if choices else None
    )
    return _keyword(key, Annotated[kind if kind is bool else kind | None, option], False if kind is bool else None)


def _keyword(key: str, annotation: Any, default: Any) -> inspect.Parameter:
    name = key.replace(".", "_")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag_name(key: str, field: FieldInfo | None) -> str:
    return f"--{'no-' * _is_on(field)}{key.rpartition('.')[2].replace('_', '-')}"


def _is_on(field: FieldInfo | None) -> bool:
    """Whether an option turns the field off, because it is on by default."""
    return field is not None and field.default is True


def _kind_of_option(annotation: Any) -> Any:
    """The type that the command line reads: texts for choices, a list for what may be repeated."""
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
    if not said.partition(" ")[0].endswith(","):  # else it begins with values, such as auto, cpu
        said = said[:1].upper() + said[1:]
    return f"{said}." + (f"  [{'; '.join(notes)}]" if notes else "")


def _notes(annotation: Any) -> list[Any]:
    """What is said beside the types inside of an annotation."""
    if isinstance(annotation, FieldInfo):
        return annotation.metadata
    return [note for inner in get_args(annotation) for note in (_notes(inner) or [inner])]
