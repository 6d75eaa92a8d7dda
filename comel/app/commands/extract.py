"""``comel extract``: a cohort's slides to bags, and the progress of that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, Quiet, print_json, tell_notes
from comel.app.options import Flag, Given, options_of

if TYPE_CHECKING:
    from comel.app.schemas import ExtractOptions
    from pipelines.batch.run import CohortReport

__all__ = ["extract"]


@options_of(
    "comel.app.schemas:ExtractOptions",
    names={
        "positive_classes": "--positive",
        "wait": Flag("--no-wait", "Do not wait for slides that other processes work on."),
    },
    example="target_mpp=1.0",
)
def extract(
    manifest: Annotated[Path, typer.Argument(help="CSV with slide_id, path, label, task.")],
    out: Annotated[Path, typer.Option(help="Folder for bags, overlays and failures.csv.")],
    given: Given[ExtractOptions],
    status: Annotated[bool, typer.Option("--status", help="Only print the progress of the last extraction.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn slides into bags of tile features. A further run, even on several machines at once, keeps complete bags."""
    from dataclasses import asdict

    from comel.app import api

    options = given.settings()
    tell_notes(manifest, quiet=quiet or as_json)
    if status:
        from comel.app.commands.extract_view import status_table

        found = api.extract_status(manifest, out, root=options.root)
        if as_json:
            print_json(asdict(found))
        else:
            status_table(found)
        return
    report = api.extract(manifest, out, quiet=quiet or as_json, **dict(options))
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report, out)
    if report.failed:
        raise typer.Exit(1)


def _print_report(report: CohortReport, out: Path) -> None:
    others = f", {report.elsewhere} done by others" if report.elsewhere else ""
    left = f", {report.left} left to others" if report.left else ""
    typer.echo(
        f"{report.done} done, {report.skipped} kept{others}{left}, {report.failed} failed; "
        f"{report.tiles} tiles, {report.seconds:.0f} s"
    )
    for failure in report.failures:
        typer.echo(f"  {failure.slide}: {failure.reason}; {failure.remedy}", err=True)
    if report.failures:
        typer.echo(f"  all failures: {out / 'failures.csv'}", err=True)
