"""``comel predict`` and ``comel serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.app.commands.options import Device, Json, Quiet, Run, Trusted, Version, print_json
from comel.errors import ComelError

__all__ = ["predict", "serve"]


def predict(
    run: Run,
    inputs: Annotated[list[Path], typer.Argument(help="Slides, bags (.h5, .pt), folders of bags, or manifests (.csv).")],
    out: Annotated[Path, typer.Option(help="Folder for JSON, maps, GeoJSON and the table.")],
    task: Annotated[str | None, typer.Option(help="The task, where it is known.")] = None,
    bags: Annotated[Path | None, typer.Option(help="Folder with the bags of a manifest's slides.")] = None,
    slide: Annotated[Path | None, typer.Option(help="The slide of a single bag, to draw its map on.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that a manifest's paths start from.")] = None,
    table: Annotated[Path | None, typer.Option(help="Table to write, .csv or .parquet; default OUT/predictions.csv.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of slides given here, whatever they say.")] = None,
    assume_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of slides that state none.")] = None,
    assume_encoder: Annotated[str | None, typer.Option(help="Encoder of feature files that do not name theirs.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Where the patch encoder is: NAME:FOLDER or file.py:Class.")] = None,
    tissue_folder: Annotated[
        Path | None, typer.Option(help="Your own tissue of slides: <slide_id>.geojson, .png, ...; needed where trained so.")
    ] = None,
    width: Annotated[int, typer.Option(help="Width of the map picture in pixels.")] = 1024,
    merge: Annotated[bool, typer.Option("--merge", help="GeoJSON of regions instead of tiles.")] = False,
    version: Version = None,
    trust: Trusted = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Class probabilities, instance scores and a map for slides or bags. Run again, it goes on where it stopped."""
    from comel.app.predict.files import KINDS, Writing
    from comel.app.predict.inputs import Reading
    from comel.app.predict.slides import predict_each
    from comel.base.cores import limit_torch_threads

    limit_torch_threads()
    reading = Reading(bags, slide, root, mpp, assume_mpp, assume_encoder, encoder, tissue_folder)
    writing = Writing(out, table or out / "predictions.csv", width, merge)
    silent = quiet or as_json
    outcomes = predict_each(
        run, inputs, reading, writing, version=version, task=task, device=device, trust=trust or (), quiet=silent
    )
    results = [outcome.result for outcome in outcomes]
    if as_json:
        print_json([outcome.row() for outcome in outcomes])
    else:
        for result in results:
            if isinstance(result, ComelError):
                typer.echo(str(result), err=True)
            else:
                confidence = "" if result.confidence is None else f" ({result.confidence:.2f})"
                shown = result.predicted_class or "nothing: no tissue"
                tiles = f"{result.positive_instances} of {len(result.instance_scores)} tiles positive"
                novelty = result.out_of_distribution
                strange = ", unlike all that the model has learned" if novelty is not None and novelty.flag else ""
                typer.echo(f"{result.slide_id}: {shown}{confidence}, {tiles}{strange}")
        written = [word for kind, word in KINDS.items() if any(kind in outcome.kinds() for outcome in outcomes)]
        files = f"{_listed(written)}: {out}; " if written else ""
        typer.echo(f"{files}table: {writing.table}")
    if any(isinstance(result, ComelError) for result in results):
        raise typer.Exit(1)


def serve(
    model: Annotated[
        list[str] | None, typer.Option(help="Run directory, or NAME=RUN; may be repeated, the first is the default.")
    ] = None,
    slides: Annotated[
        list[Path] | None, typer.Option(help="Folder whose slides may be shown and named in requests; may be repeated.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Folder that keeps predictions; default comel-state.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8000.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes for jobs; default one a GPU, or one.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the service's settings.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Most requests of one API key in a minute.")] = None,
    trust: Trusted = None,
) -> None:
    """Predictions and maps over HTTP; see /docs there."""
    from comel.app import api

    api.serve(
        model or None,
        slide_roots=slides or None,
        state_dir=state,
        host=host,
        port=port,
        device=device,
        workers=workers,
        settings_file=config,
        requests_per_minute=requests_per_minute,
        trusted_code=trust or None,
    )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
