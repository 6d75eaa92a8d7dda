"""Options of a command from a schema: one for each field, with its description, default and range; ``--config`` and ``--set``.

A command names its schema and takes what the user gave::

    @options_of("comel.app.schemas:ExtractOptions", names={"positive_classes": "--positive"})
    def extract(manifest: ..., out: ..., given: Given[ExtractOptions]) -> None:
        options = given.settings()

Register it with ``cls=LazyCommand``: only calling it or its help imports the schema.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from comel.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Flag", "Given", "LazyCommand", "options_of"]

Schema = TypeVar("Schema", bound="BaseModel")


@dataclass(frozen=True)
class Flag:
    """An option whose name differs from its field's, or whose help is not the field's description."""

    name: str
    help: str | None = None


@dataclass(frozen=True)
class Given(Generic[Schema]):
    """The settings of a schema that a user gave.

    Attributes:
        schema: their schema.
        command: the command that they belong to.
        config: the file of ``--config``.
        overrides: ``KEY=VALUE`` of ``--set``.
        options: values of options by key.
        example: an example of ``--set``, for messages.
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
        """All settings: an option overrides ``--set``, which overrides the file, which overrides the default.

        Raises:
            ConfigError: a file, a key or a value that does not fit.
        """
        from comel.base.settings import gather, parse_section

        files = [] if self.config is None else [self.config]
        content, place = gather(
            self.schema, self.command, files=files, overrides=self.overrides, options=self.options, example=self.example
        )
        for name, field in self.schema.model_fields.items():
            if field.is_required() and name not in content:
                remedy = f"give --{name.replace('_', '-')}, or write '{name}: ...' in the file of --config"
                raise ConfigError(f"{self.command}: no {name}", remedy)
        settings: Schema = parse_section(self.schema, content, place)
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
        from comel.app.fields import field_at, is_on, keyword, option_of

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
            parameters += [option_of(key, field_at(schema, key), self.names.get(key)) for key in keys.values()]
            parameters += [keyword(name, kind, None) for name, kind in self._sources().items()]
        inverted = {key for key in keys.values() if is_on(field_at(schema, key))}

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

    def _sources(self) -> dict[str, Any]:
        """``--config``, unless the schema has a field for it, and ``--set``."""
        config = {"config": Annotated[Path | None, typer.Option(help=self.config)]} if self.config is not None else {}
        example = f"A setting, such as {self.example}; may be repeated."
        return {**config, "set": Annotated[list[str] | None, typer.Option("--set", help=example)]}


def options_of(
    schema: str,
    *,
    only: Sequence[str] | None = None,
    names: Mapping[str, str | Flag] | None = None,
    config: str | None = "YAML file of settings; options and --set override it.",
    example: str,
    command: str | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter ``given`` by options from a schema, for :class:`LazyCommand`.

    Args:
        schema: ``module:Class`` of a pydantic model.
        only: keys that become options, in order; ``section.key`` inside a section. Default all fields. The others can be
            given by ``--set`` and in the file.
        names: options that differ from their field.
        config: the help of ``--config``; None if the schema has a field for its file.
        example: an example of ``--set``.
        command: the name in errors, if it is not the function's name.
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
        """The context of the command with its options, which then replaces this one."""
        return self.made().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Call the command of the context."""
        return ctx.command.invoke(ctx)
