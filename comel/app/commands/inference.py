"""``comel predict`` and ``comel serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, Quiet, Run, Trusted, print_json, tell_notes
from comel.app.options import Flag, Given, options_of
from comel.errors import ComelError

if TYPE_CHECKING:
    from comel.app.schemas import PredictOptions
    from service.settings import ServiceSettings

__all__ = ["predict", "serve"]


@options_of("comel.app.schemas:PredictOptions", example="width=2048")
def predict(
    run: Run,
    inputs: Annotated[list[Path], typer.Argument(help="Slides, bags (.h5, .pt), folders of bags, or manifests (.csv).")],
    out: Annotated[Path, typer.Option(help="Folder for JSON, maps, GeoJSON and the table.")],
    given: Given[PredictOptions],
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Class probabilities, instance scores and a map for slides or bags. A second run continues where the first stopped."""
    from comel.app.predict.files import KINDS, Writing
    from comel.app.predict.slides import predict_each
    from comel.base.cores import limit_torch_threads

    options = given.settings()
    limit_torch_threads()
    for table_of_slides in (path for path in inputs if path.suffix.lower() == ".csv"):
        tell_notes(table_of_slides, quiet=quiet or as_json)
    outcomes = predict_each(run, inputs, out, options, trust=trust or (), quiet=quiet or as_json)
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
                strange += f" of {result.task}" if strange and result.mode == "task-incremental" else ""
                typer.echo(f"{result.slide_id}: {shown}{confidence}, {tiles}{strange}")
                for note in () if quiet else result.notes:
                    typer.echo(f"  {result.slide_id}: {note}", err=True)
        written = [word for kind, word in KINDS.items() if any(kind in outcome.kinds() for outcome in outcomes)]
        files = f"{_listed(written)}: {out}; " if written else ""
        typer.echo(f"{files}table: {Writing.of(out, options).table}")
    if any(isinstance(result, ComelError) for result in results):
        raise typer.Exit(1)


@options_of(
    "service.settings:ServiceSettings",
    only=("runs", "slide_roots", "state_dir", "host", "port", "device", "workers", "settings_file", "requests_per_minute"),
    names={
        "runs": Flag("--model", "Run directory, or NAME=RUN; may be repeated, the first is the default."),
        "slide_roots": Flag("--slides", "Folder whose slides may be shown and named in requests; may be repeated."),
        "state_dir": "--state",
        "settings_file": Flag("--config", "YAML file with the service's settings."),
    },
    config=None,
    example="keep_days=30",
)
def serve(given: Given[ServiceSettings], trust: Trusted = None) -> None:
    """Predictions and maps over HTTP; see /docs there."""
    from comel.app import api

    api.serve(**dict(given.settings()) | ({"trusted_code": tuple(trust)} if trust else {}))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
