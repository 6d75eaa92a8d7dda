"""``comel bench``: the benchmarks in the documentation, each by one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, Quiet, Set, print_json, tell_notes
from comel.app.options import Given, LazyCommand, options_of

if TYPE_CHECKING:
    from comel.app.schemas import ExtractOptions

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Benchmarks.")


@app.callback()
def _bench() -> None:
    """Benchmarks."""


@app.command(epilog="Example: comel bench continual --suite features --seeds 1 --rows comel,finetune --out bench")
def continual(
    suite: Annotated[str, typer.Option(help="features, context, composite or crchisto.")] = "features",
    out: Annotated[Path, typer.Option(help="Folder for streams, runs and tables; finished work in it is kept.")] = Path(
        "bench"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    first_seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The first seed; 100 and above to choose settings.")
    ] = 0,
    rows: Annotated[str | None, typer.Option(help="Rows or groups, comma-separated; default all.")] = None,
    slides: Annotated[Path | None, typer.Option(help="composite: manifest of real slides, task = organ.")] = None,
    root: Annotated[Path | None, typer.Option(help="composite: folder that the manifest's paths start from.")] = None,
    archive: Annotated[Path | None, typer.Option(help="crchisto: the cells' .npz.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of suites and rows that replaces configs/benchmark.yaml.")
    ] = None,
    settings: Set = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare strategies and models on a reproducible stream of tasks; --set make.difficulty=0.8 changes the stream."""
    from comel.app.benchmark.continual import run_continual
    from comel.app.benchmark.table import tables

    tell_notes(slides, quiet=quiet or as_json)
    result = run_continual(
        suite,
        out,
        seeds=range(first_seed, first_seed + seeds),
        rows=[name.strip() for name in rows.split(",")] if rows else None,
        slides=slides,
        root=root,
        archive=archive,
        config=config,
        overrides=settings or [],
        jobs=jobs,
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(result)
    else:
        typer.echo(tables(result["rows"]))
        typer.echo(f"tables: {out / suite}/table.md, results.csv, results.json")


@app.command(epilog="Example: comel bench mixers --mixers gdat,hilo,attention,mlp --max-tiles 65536 --out bench")
def mixers(
    out: Annotated[Path, typer.Option(help="Folder for all that is measured; what is finished is kept.")] = Path(
        "bench-mixers"
    ),
    only: Annotated[str | None, typer.Option("--mixers", help="Mixers, comma-separated; default all (comel mixers).")] = None,
    parts: Annotated[str, typer.Option(help="Of checks, cost, quality; comma-separated.")] = "checks,cost,quality",
    suites: Annotated[str, typer.Option(help="For quality: features, context, composite.")] = "features,context",
    max_tiles: Annotated[int, typer.Option(help="Largest bag whose cost is measured.")] = 1 << 17,
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds; a longer pass is not measured.")] = 20.0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    slides: Annotated[Path | None, typer.Option(help="composite: manifest of real slides, task = organ.")] = None,
    root: Annotated[Path | None, typer.Option(help="composite: folder that its paths start from.")] = None,
    settings: Set = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that costs are measured with.")] = None,
    device: Annotated[str, typer.Option(help="Device that costs are measured on.")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Mixers side by side: what each keeps to, what a block costs over the length of the bag, and what it gives."""
    from comel.app.benchmark.mixers.run import run_mixers
    from comel.base.settings import comma_separated

    result = run_mixers(
        out,
        mixers=comma_separated(only),
        parts=comma_separated(parts),
        suites=comma_separated(suites),
        max_tiles=max_tiles,
        limit=limit,
        seeds=range(seeds),
        slides=slides,
        root=root,
        overrides=settings or [],
        threads=threads,
        device=device,
        jobs=jobs,
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(result)
    else:
        typer.echo((out / "mixers.md").read_text(encoding="utf-8"))
        typer.echo(f"tables and plots: {out}/mixers.md, mixers.json, cost.png, quality.png")


@app.command(cls=LazyCommand, epilog="Example: comel bench extract slide.svs --encoder efficientnet-lite0 --repeats 3")
@options_of(
    "comel.app.schemas:ExtractOptions",
    only=("encoder", "target_mpp", "assume_mpp", "batch_size", "precision", "device"),
    config="YAML file of comel extract; options and --set override it.",
    example="target_mpp=1.0",
    command="bench extract",
)
def extract(
    given: Given[ExtractOptions],
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides; default a synthetic one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding threads; default one per core, up to 8.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every measurement; the median is printed.")] = 3,
    size: Annotated[int, typer.Option(help="Side of the synthetic slide in pixels.")] = 4096,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tiles per second: decoding alone, with the encoder, the encoder alone, one read per tile in a DataLoader, whole
    batches in one forward pass, and these from the DataLoader."""
    from comel.app import api

    options = given.settings()
    result = api.bench_extract(
        slides or [],
        workers=workers,
        repeats=repeats,
        size=size,
        device=options.device,
        quiet=quiet or as_json,
        **dict(options.extraction()),
    )
    if as_json:
        print_json(result)
        return
    where = f"{result['cores']} cores, {result['device']}, {result['precision']}"
    typer.echo(f"{result['tiles']} tiles, {result['workers']} workers, {where}\n")
    typer.echo("| way | tiles/s | core-seconds |\n|---|---:|---:|")
    for way, speed in result["tiles_per_second"].items():
        spent = result["core_seconds"].get(way)
        typer.echo(f"| {way} | {speed:.1f} | {'-' if spent is None else f'{spent:.2f}'} |")
    typer.echo("\n| target | measured | wanted | holds |\n|---|---:|---:|---|")
    for target in result["targets"]:
        wanted = f"<= {target['at_most']:g}" if "at_most" in target else f">= {target['at_least']:g}"
        typer.echo(f"| {target['name']} | {target['value']:.2f} | {wanted} | {'yes' if target['holds'] else 'no'} |")
    typer.echo("\n| with encoder, over | speed-up | from | to |\n|---|---:|---:|---:|")
    for gain in result["speed_ups"]:
        typer.echo(f"| {gain['over']} | {gain['median']:.2f} | {gain['least']:.2f} | {gain['most']:.2f} |")
