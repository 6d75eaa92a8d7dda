"""``comel synth`` and ``comel bags``: slides and their bags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, Quiet, print_json, tell_notes
from comel.app.options import Given, options_of

if TYPE_CHECKING:
    from pipelines.synth.settings import SynthSettings

__all__ = ["bags_check", "bags_export", "bags_stats", "synth"]


@options_of(
    "pipelines.synth.settings:SynthSettings",
    only=("organs", "slides_per_organ", "size", "seed", "difficulty"),
    names={"slides_per_organ": "--slides"},
    example="mpp=0.25",
)
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for slides, masks and manifest.csv.")],
    given: Given[SynthSettings],
    quiet: Quiet = False,
) -> None:
    """Generate a cohort of computer-made, H&E-like slides with tumour masks. They are not tissue."""
    from comel.app import api

    typer.echo(f"cohort: {api.synth(out, quiet=quiet, **dict(given.settings()))}")


def bags_check(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")], as_json: Json = False
) -> None:
    """Read feature files in full, with checksums, and print their content or the problem."""
    from comel.app import api

    entries = api.check_bags(paths)
    if as_json:
        print_json(entries)
    else:
        _tell_left_out(paths)
        for entry in entries:
            said = (
                entry.get("error") or f"{entry['instances']} x {entry['dimension']}, {entry['encoder'] or 'encoder not stated'}"
            )
            if entry.get("scales"):
                said += "; " + ", ".join(f"{tiles} at {mpp} um/px" for mpp, tiles in entry["scales"].items())
            typer.echo(f"{entry['file']}: {said}")
    if any("error" in entry for entry in entries):
        raise typer.Exit(1)


def bags_stats(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")], as_json: Json = False
) -> None:
    """Tiles, tissue, positive share and encoder of each feature file and in total."""
    from comel.bags.summary import bag_statistics, statistics_table

    found = bag_statistics(paths)
    if as_json:
        print_json(found)
    else:
        _tell_left_out(paths)
        typer.echo(statistics_table(found))
    if found["all"]["unreadable"]:
        raise typer.Exit(1)


def bags_export(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write; existing files must have the same content.")],
    clam: Annotated[bool, typer.Option("--clam", help="Write the layout that CLAM loads; the default.")] = True,
    manifest: Annotated[Path | None, typer.Option(help="CSV: write only its slides, and CLAM's tables for them.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write feature files in another tool's layout. A second run continues where the first stopped."""
    from dataclasses import asdict

    from comel.cohort.clam import export_clam

    tell_notes(manifest, quiet=quiet or as_json)
    report = export_clam(paths, out, manifest=manifest, root=root, quiet=quiet or as_json)
    if as_json:
        print_json(asdict(report))
        return
    if not quiet:
        _tell_left_out(paths)
    typer.echo(f"{report.written} bags written, {report.kept} existed; {out}")
    if report.empty:
        typer.echo(f"  left out, without a tile: {', '.join(report.empty)}", err=True)
    for table in report.tables:
        typer.echo(f"  {table}")


def _tell_left_out(paths: list[Path]) -> None:
    from comel.bags.foreign import feature_files
    from comel.bags.left_out import said_left_out

    if (line := said_left_out(paths, feature_files(paths))) is not None:
        typer.echo(line, err=True)
