"""Options that several commands share, and how they print."""

from __future__ import annotations

import contextlib
import json
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

__all__ = ["Device", "Json", "Quiet", "Run", "Set", "Trusted", "Version", "ink_colours", "number", "print_json"]

_output: ContextVar[TextIO] = ContextVar("where the result of --json goes")


def _nothing_but_the_result(context: typer.Context, wanted: bool) -> bool:
    """What code of the user's prints meanwhile, such as an encoder that greets, goes to standard error."""
    if wanted:
        _output.set(sys.stdout)
        context.with_resource(contextlib.redirect_stdout(sys.stderr))
    return wanted


Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else.", callback=_nothing_but_the_result)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, such as trainer.epochs=20; may be repeated.")]
Run = Annotated[Path, typer.Argument(help="Run directory.")]
Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="FILE.py",
        help="Your own code that the run may load, FILE.py or FILE.py:Class, or hf:NAME; may be repeated.",
    ),
]
Version = Annotated[int | None, typer.Option(help="Version of the run; default the current one.")]


def number(value: float | None) -> str:
    """A score as text; ``-`` where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def print_json(value: Any) -> None:
    """Print the result of a command that was given ``--json``, indented."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str), file=_output.get())


def ink_colours(text: str | None) -> tuple[str, ...] | None:
    """The colours of ``--ink red,black``; none of them for ``none``, None where nothing was said."""
    if text is None:
        return None
    return () if text.strip() == "none" else tuple(colour.strip() for colour in text.split(","))
