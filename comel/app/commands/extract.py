"""``comel extract``: a cohort's slides to bags, and how far that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Device, Json, Quiet, ink_colours, print_json, tell_notes

if TYPE_CHECKING:
    from pipelines.batch.run import CohortReport

__all__ = ["extract"]


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
    precision: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16, of the encoder; default auto: by the device."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float16 (default) or float32, of the stored features.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Slides at once; default one a CUDA device, else one for every eight cores.")
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(min=1, help="Most seconds a slide may take; one that shows no progress for 15 minutes is stopped anyway."),
    ] = None,
    worker_memory: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GIB", help="Most memory of one worker in GiB; a slide that needs more fails."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say how far the last run's extraction is.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Work only on slides that failed.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every bag that is there and check it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Redo complete slides too.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Leave slides that other processes work on to them.")] = False,
    engine: Annotated[str, typer.Option(help="local, or dask: the workers of a Dask scheduler.")] = "local",
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    scheduler_file: Annotated[Path | None, typer.Option(help="The scheduler's file, in place of its address.")] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Slides to bags of tile features. Run again, or on more machines at once, it keeps what is complete and does the rest."""
    from dataclasses import asdict

    from comel.app import api

    tell_notes(manifest, quiet=quiet or as_json)
    if status:
        from comel.app.commands.extract_view import status_table

        found = api.extract_status(manifest, out, root=root)
        if as_json:
            print_json(asdict(found))
        else:
            status_table(found)
        return
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
        precision=precision,
        dtype=dtype,
        root=root,
        workers=workers,
        time_limit=time_limit,
        worker_memory=worker_memory,
        retry_failed=retry_failed,
        verify=verify,
        force=force,
        wait=not no_wait,
        engine=engine,
        scheduler=scheduler,
        scheduler_file=scheduler_file,
        device=device,
        quiet=quiet or as_json,
    )
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
