"""Options that several commands share, and how they print."""

from __future__ import annotations

import contextlib
import json
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

__all__ = ["Json", "Quiet", "Run", "Set", "Trusted", "number", "print_json", "tell_notes"]

_output: ContextVar[TextIO] = ContextVar("where the result of --json goes")


def _nothing_but_the_result(context: typer.Context, wanted: bool) -> bool:
    """Anything that the user's code prints meanwhile, such as an encoder's banner, goes to standard error."""
    if wanted:
        _output.set(sys.stdout)
        context.with_resource(contextlib.redirect_stdout(sys.stderr))
    return wanted


Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else.", callback=_nothing_but_the_result)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
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


def number(value: float | None) -> str:
    """A score as text; ``-`` if it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def print_json(value: Any) -> None:
    """Print the result of a command called with ``--json``, indented."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str), file=_output.get())


def tell_notes(manifest: Path | None, *, quiet: bool) -> None:
    """Warn on standard error, once per command, about unused columns and probable mistakes in a manifest."""
    if manifest is None or quiet:
        return
    from comel.cohort.notes import manifest_notes

    for note in manifest_notes(manifest):
        typer.echo(f"note: {note}", err=True)
