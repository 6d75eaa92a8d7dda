"""``comel mixers``: the mixers there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from comel.app.commands.options import Json, print_json

__all__ = ["mixers"]


def mixers(
    name: Annotated[str | None, typer.Argument(help="One mixer: its card, and its options with their defaults.")] = None,
    as_json: Json = False,
) -> None:
    """The mixers: how the instances of a bag may look at each other (model.mixer=NAME)."""
    from comel.app import api

    found = api.mixers(name)
    if as_json:
        print_json(found)
    elif name is None:
        columns = {"name": "name", "sees": "sees", "reach": "reach", "exponent": "time ~ M^", "coords": "coordinates"}
        columns |= {"title": "what it does"}
        lines = [tuple(columns.values()), *(tuple(_cell(entry[key]) for key in columns) for entry in found)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
        for line in lines:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        typer.echo("\nOne in full: comel mixers NAME. Side by side: comel bench mixers. docs/mixers.md")
    else:
        for key, value in found[0].items():
            if key != "options":
                typer.echo(f"{key:16} {_cell(value)}")
        for option in found[0]["options"]:
            typer.echo(f"  model.mixer_options.{name}.{option['name']}={_cell(option['default'])}  {option['description']}")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
