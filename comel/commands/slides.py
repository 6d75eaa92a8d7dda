"""``comel synth``, ``comel extract`` and ``comel bags``: slides and their bags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.commands.options import Device, Json, Quiet, ink_colours, print_json

__all__ = ["bags_check", "bags_export", "bags_stats", "extract", "synth"]


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
    from comel import api

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


def extract(
    manifest: Annotated[Path, typer.Argument(help="CSV with slide_id, path, label, task.")],
    out: Annotated[Path, typer.Option(help="Folder for bags, overlays and failures.csv.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="efficientnet-lite0, uni, ... (docs/encoders.md), NAME:FOLDER, hf:<name or folder>, file.py:Class."),
    ] = None,
    target_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of the tiles; default 0.5.")] = None,
    also_mpp: Annotated[
        list[float] | None, typer.Option(help="A coarser scale to extract too, a whole multiple of the next finer; repeat it.")
    ] = None,
    assume_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of slides that state none.")] = None,
    tile_size: Annotated[int | None, typer.Option(help="Tile side in pixels at the target; default 256.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Pixels that neighbouring tiles share.")] = None,
    min_tissue: Annotated[float | None, typer.Option(help="Least share of tissue in a tile; default 0.25.")] = None,
    tissue: Annotated[str | None, typer.Option(help="hsv-otsu (default), stain-density, mask or geojson.")] = None,
    tissue_folder: Annotated[Path | None, typer.Option(help="Your own tissue: <slide_id>.geojson, .png, ...")] = None,
    ink: Annotated[str | None, typer.Option(help="Marker inks to look for: red,green,blue,black (default) or none.")] = None,
    max_pen: Annotated[float | None, typer.Option(help="Most share of ink in a tile; default 0.25.")] = None,
    max_fold: Annotated[float | None, typer.Option(help="Most share of folds in a tile; default 1, keeps all.")] = None,
    regions_only: Annotated[
        bool, typer.Option("--regions-only", help="Only tiles inside the annotations of the manifest.")
    ] = False,
    regions: Annotated[
        list[str] | None, typer.Option(help="Only tiles inside this class of the annotations; repeat it.")
    ] = None,
    exclude_regions: Annotated[
        list[str] | None, typer.Option(help="No tile inside this class of the annotations; repeat it.")
    ] = None,
    positive: Annotated[
        list[str] | None, typer.Option(help="Class of the annotations that makes a tile positive; repeat it. Default: all.")
    ] = None,
    annotation_overlap: Annotated[
        float | None, typer.Option(help="Least share of a tile inside an annotation to count as inside; default 0.25.")
    ] = None,
    stain_normalisation: Annotated[
        str | None, typer.Option(help="macenko or reinhard: bring all slides to one staining; default none.")
    ] = None,
    stain_reference: Annotated[
        Path | None, typer.Option(help="Image of H&E tissue with the staining to bring slides to; default a built-in one.")
    ] = None,
    stain: Annotated[
        str | None, typer.Option(help="Shift the staining: light, dark, h_heavy, ... or random, another for each slide.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Tiles encoded at once; default 32.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Redo complete slides too.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Slides to bags of tile features. Run again, it keeps what is complete and redoes the rest."""
    from dataclasses import asdict

    from comel import api

    report = api.extract(
        manifest,
        out,
        encoder=encoder,
        target_mpp=target_mpp,
        also_mpp=also_mpp or None,
        assume_mpp=assume_mpp,
        tile_size=tile_size,
        overlap=overlap,
        min_tissue=min_tissue,
        tissue=tissue,
        tissue_folder=tissue_folder,
        ink=ink_colours(ink),
        max_pen=max_pen,
        max_fold=max_fold,
        regions_only=regions_only or None,
        regions=regions or None,
        exclude_regions=exclude_regions or None,
        positive_classes=positive or None,
        annotation_overlap=annotation_overlap,
        stain_normalisation=stain_normalisation,
        stain_reference=stain_reference,
        stain=stain,
        batch_size=batch_size,
        root=root,
        force=force,
        device=device,
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(asdict(report))
    else:
        typer.echo(
            f"{report.done} done, {report.skipped} kept, {report.failed} failed; {report.tiles} tiles, {report.seconds:.0f} s"
        )
        for failure in report.failures:
            typer.echo(f"  {failure.slide}: {failure.reason}; {failure.remedy}", err=True)
        if report.failures:
            typer.echo(f"  all failures: {out / 'failures.csv'}", err=True)
    if report.failed:
        raise typer.Exit(1)


def bags_check(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")], as_json: Json = False
) -> None:
    """Read feature files whole, checksums included, and say what they hold or what is wrong."""
    from comel import api

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
    from comel.bag_statistics import bag_statistics, statistics_table

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
    clam: Annotated[bool, typer.Option("--clam", help="In the layout that CLAM loads.")] = False,
    manifest: Annotated[Path | None, typer.Option(help="CSV: only its slides, and CLAM's tables of them.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write feature files in another tool's layout. Run again, it goes on where it stopped."""
    from dataclasses import asdict

    from comel.errors import ConfigError
    from comel.export import export_clam

    if not clam:
        raise ConfigError("bags export: no tool to export to", "give --clam")
    report = export_clam(paths, out, manifest=manifest, root=root, quiet=quiet or as_json)
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(f"{report.written} bags written, {report.kept} were there; {out}")
    if report.empty:
        typer.echo(f"  left out, without a tile: {', '.join(report.empty)}", err=True)
    for table in report.tables:
        typer.echo(f"  {table}")
