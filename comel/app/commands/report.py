"""``comel report``: see :mod:`comel.reporting.write`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.app.commands.options import Json, Quiet, Trusted, print_json

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or a folder of folds or orders; several are compared side by side.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; default report.html in the given folder, for several in the working directory."),
    ] = None,
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page about one or several runs, and model_card.md beside it."""
    from comel.reporting.write import CARD, write_report

    written = write_report(runs, out, trust=trust or (), quiet=quiet or as_json)
    card = written.with_name(CARD)
    if as_json:
        print_json({"report": str(written), "model_card": str(card)})
    else:
        typer.echo(f"report: {written}; model card: {card}")
