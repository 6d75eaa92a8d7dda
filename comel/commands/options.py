"""Options that several commands share, and how they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Device", "Json", "Quiet", "Run", "Set", "Version", "ink_colours", "number", "print_json"]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, such as trainer.epochs=20; may be repeated.")]
Run = Annotated[Path, typer.Argument(help="Run directory.")]
Version = Annotated[int | None, typer.Option(help="Version of the run; default the current one.")]


def number(value: float | None) -> str:
    """A score as text; ``-`` where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def print_json(value: Any) -> None:
    """Print a result as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def ink_colours(text: str | None) -> tuple[str, ...] | None:
    """The colours of ``--ink red,black``; none of them for ``none``, None where nothing was said."""
    if text is None:
        return None
    return () if text.strip() == "none" else tuple(colour.strip() for colour in text.split(","))
