"""The command line: a thin face over :mod:`comel.api`. Nothing heavy is imported before a command runs.

Exit codes: 0 done; 1 done, but some slides failed; 2 the input cannot be used, said in one line on standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from comel.errors import ComelError

__all__ = ["app", "main"]

app = typer.Typer(
    name="comel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Continual multiple instance learning on whole-slide images. Research use only, not for diagnosis.",
)
bags_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at feature files.")
app.add_typer(bags_app, name="bags")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting, such as trainer.epochs=20; may be repeated.")]
Run = Annotated[Path, typer.Argument(help="Run directory.")]
Version = Annotated[int | None, typer.Option(help="Version of the run; default the current one.")]


@app.command(epilog="Example: comel demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the synthetic cohort.")] = 0,
    slides: Annotated[int | None, typer.Option(help="Slides an organ.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a slide in level-0 pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs a task.")] = None,
    as_json: Json = False,
) -> None:
    """The whole way on a synthetic cohort: synth, extract, train, evaluate, predict with maps."""
    from comel import api

    summary = api.demo(out, seed=seed, slides_per_organ=slides, size=size, epochs=epochs, quiet=as_json)
    if as_json:
        _print_json(summary)


@app.command(epilog="Example: comel synth cohort --organs colon,kidney --slides 20 --seed 1")
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


@app.command(epilog="Example: comel extract cohort/manifest.csv --out bags --target-mpp 0.5")
def extract(
    manifest: Annotated[Path, typer.Argument(help="CSV with slide_id, path, label, task.")],
    out: Annotated[Path, typer.Option(help="Folder for bags, overlays and failures.csv.")],
    encoder: Annotated[str | None, typer.Option(help="efficientnet-lite0, or hf:<name or folder>.")] = None,
    target_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of the tiles; default 0.5.")] = None,
    assume_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of slides that state none.")] = None,
    tile_size: Annotated[int | None, typer.Option(help="Tile side in pixels at the target; default 256.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Pixels that neighbouring tiles share.")] = None,
    min_tissue: Annotated[float | None, typer.Option(help="Least share of tissue in a tile; default 0.25.")] = None,
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
        assume_mpp=assume_mpp,
        tile_size=tile_size,
        overlap=overlap,
        min_tissue=min_tissue,
        batch_size=batch_size,
        root=root,
        force=force,
        device=device,
        quiet=quiet or as_json,
    )
    if as_json:
        _print_json(asdict(report))
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


@app.command(epilog="Example: comel train --manifest cohort/manifest.csv --bags bags --strategy owlora --out runs/owlora")
def train(
    out: Annotated[Path, typer.Option(help="Run directory; the same command goes on with an unfinished run.")],
    config: Annotated[Path | None, typer.Option(help="YAML with sections data, model, strategy, trainer.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="The cohort's CSV.")] = None,
    bags: Annotated[Path | None, typer.Option(help="Folder of feature files.")] = None,
    strategy: Annotated[str | None, typer.Option(help="finetune, joint, owlora, or file.py:Class.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs a task.")] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run's own settings.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train over a stream of tasks, one version a task."""
    from comel import api
    from comel.config import load_config

    given = {"data.manifest": manifest, "data.bags": bags, "strategy.name": strategy, "trainer.epochs": epochs}
    overrides = [f"{key}={_quoted(value)}" for key, value in given.items() if value is not None]
    run = api.train(load_config(config, [*overrides, *(settings or [])]), out, resume=resume, quiet=quiet or as_json)
    _tell_metrics(run, as_json)


@app.command("add-task", epilog="Example: comel add-task runs/owlora --manifest liver.csv --bags liver-bags")
def add_task(
    run: Run,
    manifest: Annotated[Path, typer.Option(help="The new tasks' cohort.")],
    bags: Annotated[Path, typer.Option(help="The new tasks' feature files.")],
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    settings: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a finished run a new task from its bags alone; the old version stays usable."""
    from comel import api

    api.add_task(run, manifest, bags, tasks=task, overrides=settings or [], quiet=quiet or as_json)
    _tell_metrics(run, as_json)


@app.command(epilog="Example: comel evaluate runs/owlora --manifest cohort/manifest.csv --bags bags --json")
def evaluate(
    run: Run,
    manifest: Annotated[Path, typer.Option(help="Labelled cases of tasks that the run has learned.")],
    bags: Annotated[Path, typer.Option(help="Their feature files.")],
    version: Version = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a version on labelled cases."""
    from comel import api

    if split not in ("train", "val", "test", "all"):
        raise ComelError(f"--split {split}: no such split", "say train, val, test or all")
    chosen = None if split == "all" else split
    scores = api.evaluate(run, manifest, bags, version=version, split=chosen, device=device, quiet=quiet or as_json)
    if as_json:
        _print_json(scores)
        return
    for name, entry in scores["tasks"].items():
        typer.echo(f"{name}: {entry['cases']} cases")
        for mode, kinds in entry.items():
            if mode != "cases":
                bag, instance = kinds["bag"], kinds["instance"]
                values = {
                    "accuracy": bag["accuracy"],
                    "AUC": bag["auc"],
                    "instance AUC": instance["auc"],
                    "Dice": instance["dice"],
                }
                typer.echo(f"  {mode}: " + ", ".join(f"{key} {_number(value)}" for key, value in values.items()))


@app.command(epilog="Example: comel predict runs/owlora slide.svs --out predictions")
def predict(
    run: Run,
    inputs: Annotated[list[Path], typer.Argument(help="Slides, bags (.h5, .pt) or manifests (.csv).")],
    out: Annotated[Path, typer.Option(help="Folder for JSON, maps, GeoJSON and the table.")],
    task: Annotated[str | None, typer.Option(help="The task, where it is known.")] = None,
    bags: Annotated[Path | None, typer.Option(help="Folder with the bags of a manifest's slides.")] = None,
    slide: Annotated[Path | None, typer.Option(help="The slide of a single bag, to draw its map on.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that a manifest's paths start from.")] = None,
    table: Annotated[Path | None, typer.Option(help="Table to write, .csv or .parquet; default OUT/predictions.csv.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of the slide, whatever it says itself.")] = None,
    assume_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of slides that state none.")] = None,
    assume_encoder: Annotated[str | None, typer.Option(help="Encoder of feature files that do not name theirs.")] = None,
    width: Annotated[int, typer.Option(help="Width of the map picture in pixels.")] = 1024,
    merge: Annotated[bool, typer.Option("--merge", help="GeoJSON of regions instead of tiles.")] = False,
    version: Version = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Class probabilities, instance scores and a map for slides or bags."""
    from comel import api

    results = api.predict(
        run,
        inputs,
        out,
        version=version,
        task=task,
        bags=bags,
        slide=slide,
        root=root,
        table=table,
        mpp=mpp,
        assume_mpp=assume_mpp,
        assume_encoder=assume_encoder,
        width=width,
        merge=merge,
        device=device,
        quiet=quiet or as_json,
    )
    failed = [result for result in results if isinstance(result, ComelError)]
    if as_json:
        _print_json([{"error": str(r)} if isinstance(r, ComelError) else _brief(r) for r in results])
    else:
        for result in results:
            if isinstance(result, ComelError):
                typer.echo(str(result), err=True)
            else:
                confidence = "" if result.confidence is None else f" ({result.confidence:.2f})"
                shown = result.predicted_class or "nothing: no tissue"
                tiles = f"{result.positive_instances} of {len(result.instance_scores)} tiles positive"
                typer.echo(f"{result.slide_id}: {shown}{confidence}, {tiles}")
        typer.echo(f"maps, GeoJSON and JSON: {out}; table: {table or out / 'predictions.csv'}")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: comel serve --model runs/owlora --slides /data/slides")
def serve(
    model: Annotated[Path, typer.Option(help="Run directory whose current version answers.")],
    slides: Annotated[Path | None, typer.Option(help="Folder whose slides may be named in requests.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder that keeps predictions; default comel-state.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8000.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
) -> None:
    """Predictions and maps over HTTP; see /docs there."""
    from comel import api

    api.serve(model, slide_root=slides, state_dir=state, host=host, port=port, device=device)


@app.command(epilog="Example: comel inspect slide.svs --overlay tissue.png")
def inspect(
    slide: Annotated[Path, typer.Argument(help="A slide.")],
    overlay: Annotated[Path | None, typer.Option(help="PNG of the tissue and the tiles to write.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel, whatever the slide says itself.")] = None,
    assume_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel if the slide states none.")] = None,
    target_mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel of the tiles; default 0.5.")] = None,
    as_json: Json = False,
) -> None:
    """What a slide is, and what would be cut from it."""
    from comel import api

    found = api.inspect(slide, overlay=overlay, mpp=mpp, assume_mpp=assume_mpp, target_mpp=target_mpp)
    if as_json:
        _print_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:16} {value:.4f}" if isinstance(value, float) else f"{name:16} {value}")


@bags_app.command("check", epilog="Example: comel bags check bags/")
def bags_check(
    paths: Annotated[list[Path], typer.Argument(help="Feature files or folders of them.")], as_json: Json = False
) -> None:
    """Read feature files whole, checksums included, and say what they hold or what is wrong."""
    from comel import api

    entries = api.check_bags(paths)
    if as_json:
        _print_json(entries)
    else:
        for entry in entries:
            said = (
                entry.get("error") or f"{entry['instances']} x {entry['dimension']}, {entry['encoder'] or 'encoder not stated'}"
            )
            typer.echo(f"{entry['file']}: {said}")
    if any("error" in entry for entry in entries):
        raise typer.Exit(1)


def main() -> None:
    """The entry point: turns what a user can get wrong into one line and exit code 2."""
    try:
        app(prog_name="comel")
    except ComelError as error:
        typer.echo(f"comel: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Typer makes an exit with code 130 of the first.
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        typer.echo("comel: interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)
    except OSError as error:
        typer.echo(
            f"comel: {error.filename or 'file'}: {error.strerror or error}; check the path, its permissions and the disk",
            err=True,
        )
        sys.exit(2)


def _tell_metrics(run: Path, as_json: bool) -> None:
    from comel.files import read_json

    metrics = read_json(run / "metrics.json")
    if as_json:
        _print_json(metrics)
        return
    typer.echo(f"run: {run}, {len(metrics['stages'])} versions, tasks {', '.join(metrics['tasks'])}")
    for mode, scores in metrics["continual"].get("bag", {}).items():
        accuracy = scores["accuracy"]
        if accuracy:
            typer.echo(f"  {mode} accuracy {_number(accuracy['final_average'])}, forgetting {_number(accuracy['forgetting'])}")


def _brief(prediction: Any) -> dict[str, Any]:
    from comel.prediction import prediction_row

    return prediction_row(prediction)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _quoted(value: Any) -> str:
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
