"""``comel encoders``: the available patch encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from comel.app.commands.options import Json, print_json

__all__ = ["encoders"]


def encoders(
    name: Annotated[str | None, typer.Argument(help="One encoder: all its facts, and how to obtain its weights.")] = None,
    as_json: Json = False,
) -> None:
    """The patch encoders: dimension, resolution, input, licence, and whether they can be used here."""
    from comel.app import api

    found = api.encoders(name)
    if as_json:
        print_json(found)
    elif name is None:
        typer.echo(_table(found))
        typer.echo("\nAlso hf:OWNER/MODEL, hf:FOLDER and FILE.py:CLASS. One in full: comel encoders NAME. docs/encoders.md")
    else:
        for key, value in found[0].items():
            if key != "obtain":
                typer.echo(f"{key:12} {_cell(value)}")
        for number, step in enumerate(found[0].get("obtain", []), start=1):
            typer.echo(f"{number}. {step}")


def _table(entries: Sequence[dict[str, Any]]) -> str:
    columns = {"name": "name", "dimension": "dimension", "mpp": "um/px", "input_size": "input px", "licence": "licence"}
    columns |= {"gated": "on request", "ready": "usable here"}
    lines = [tuple(columns.values()), *(tuple(_cell(entry.get(key)) for key in columns) for entry in entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"{item:g}" for item in value) or "-"
    return "-" if value is None else str(value)
