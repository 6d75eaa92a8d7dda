"""``comel synth`` and ``comel bags``: slides and their bags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.app.commands.options import Json, Quiet, print_json

__all__ = ["bags_check", "bags_export", "bags_stats", "synth"]


def synth(
    out: Annotated[Path, typer.Argument(help="Folder for slides, masks and manifest.csv.")],
    organs: Annotated[str | None, typer.Option(help="Organs, comma-separated: colon, kidney, liver, lymph_node.")] = None,
    slides: Annotated[int | None, typer.Option(help="Slides an organ; half show a tumour.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a slide in level-0 pixels.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    difficulty: Annotated[float | None, typer.Option(help="0 easy to 1 hard.")] = None,
    quiet: Quiet = False,
) -> None:
    """Generate a cohort of computer-made, H&E-like slides with tumour masks. They are not tissue."""
    from comel.app import api

    manifest = api.synth(
        out,
        organs=tuple(name.strip() for name in organs.split(",")) if organs else None,
        slides_per_organ=slides,
        size=size,
        seed=seed,
        difficulty=difficulty,
        quiet=quiet,
    )
    typer.echo(f"cohort: {manifest}")


def bags_check(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")], as_json: Json = False
) -> None:
    """Read feature files whole, checksums included, and say what they hold or what is wrong."""
    from comel.app import api

    entries = api.check_bags(paths)
    if as_json:
        print_json(entries)
    else:
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
    """Tiles, tissue, positive share and encoder of each feature file, and of all together."""
    from comel.bags.summary import bag_statistics, statistics_table

    found = bag_statistics(paths)
    if as_json:
        print_json(found)
    else:
        typer.echo(statistics_table(found))
    if found["all"]["unreadable"]:
        raise typer.Exit(1)


def bags_export(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write; what is there already must be the same.")],
    clam: Annotated[bool, typer.Option("--clam", help="In the layout that CLAM loads; the default.")] = True,
    manifest: Annotated[Path | None, typer.Option(help="CSV: only its slides, and CLAM's tables of them.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write feature files in another tool's layout. Run again, it goes on where it stopped."""
    from dataclasses import asdict

    from comel.cohort.clam import export_clam

    report = export_clam(paths, out, manifest=manifest, root=root, quiet=quiet or as_json)
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(f"{report.written} bags written, {report.kept} were there; {out}")
    if report.empty:
        typer.echo(f"  left out, without a tile: {', '.join(report.empty)}", err=True)
    for table in report.tables:
        typer.echo(f"  {table}")
