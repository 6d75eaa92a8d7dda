"""``comel train``, ``comel add-task`` and ``comel evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comel.app.commands.options import Json, Quiet, Run, Trusted, number, print_json, tell_notes
from comel.app.options import Flag, Given, options_of
from comel.errors import ComelError

if TYPE_CHECKING:
    from comel.app.schemas import EvaluateOptions
    from comel.runs.config import RunConfig

__all__ = ["EPILOGS", "add_task", "evaluate", "train"]

EPILOGS = {
    "train": "Example: comel train --manifest cohort/manifest.csv --bags bags --strategy owlora --out runs/owlora",
    "add-task": "Example: comel add-task runs/owlora --manifest liver.csv --bags liver-bags",
    "evaluate": "Example: comel evaluate runs/owlora --manifest cohort/manifest.csv --bags bags --json",
}


_SECTIONS = "YAML with sections data, model, strategy, trainer; options and --set override it."


@options_of(
    "comel.runs.config:RunConfig",
    only=(
        "data.manifest",
        "data.bags",
        "data.root",
        "strategy.name",
        "trainer.epochs",
        "data.assume_encoder",
        "data.skip_missing",
    ),
    names={"strategy.name": Flag("--strategy", "Name of a strategy, such as owlora, or file.py:Class.  [default: owlora]")},
    config=_SECTIONS,
    example="trainer.epochs=20",
    command="settings",
)
def train(
    out: Annotated[Path, typer.Option(help="Run directory; the same command continues an unfinished run.")],
    given: Given[RunConfig],
    folds: Annotated[int | None, typer.Option(help="Cross-validate: one run per fold, in OUT/fold-0, OUT/fold-1, ...")] = None,
    orders: Annotated[
        int | None, typer.Option(help="Train this many task orders, one run each, in OUT/order-0, OUT/order-1, ...")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue with the run's own settings.")] = False,
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train over a stream of tasks, one version per task."""
    if (folds is not None) + (orders is not None) + resume > 1:
        raise ComelError(
            "--folds, --orders and --resume exclude one another", "give one; the same --folds or --orders command continues"
        )
    if resume and given:
        raise ComelError("--resume uses the run's settings", "leave the other settings out, or train a new run with them")
    chosen = given.settings()
    silent = quiet or as_json
    tell_notes(chosen.data.manifest, quiet=silent)
    if folds is not None:
        from comel.training.cross_validation import train_folds

        _tell_runs(train_folds(chosen, out, folds=folds, quiet=silent), out / "folds.json", as_json)
    elif orders is not None:
        from comel.training.cross_validation import train_orders

        _tell_runs(train_orders(chosen, out, orders=orders, quiet=silent), out / "orders.json", as_json)
    else:
        from comel.training.train import train as train_run

        train_run(chosen, out, resume=resume, trust=trust or (), quiet=silent)
        _tell_metrics(out, as_json)


@options_of(
    "comel.runs.config:RunConfig",
    only=("data.root", "data.assume_encoder", "data.skip_missing"),
    config=_SECTIONS,
    example="trainer.epochs=20",
    command="settings",
)
def add_task(
    run: Run,
    manifest: Annotated[Path, typer.Option(help="The new tasks' cohort.")],
    bags: Annotated[Path, typer.Option(help="The new tasks' feature files.")],
    given: Given[RunConfig],
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a finished run a new task from its bags alone; the old version stays usable."""
    from comel.training.train import add_task as teach

    settings = dict(given.options)
    root = settings.pop("data.root", None)
    tell_notes(manifest, quiet=quiet or as_json)
    teach(
        run,
        manifest,
        bags,
        tasks=task,
        root=root,
        config=given.config,
        overrides=given.overrides,
        settings=settings,
        trust=trust or (),
        quiet=quiet or as_json,
    )
    _tell_metrics(run, as_json)


@options_of("comel.app.schemas:EvaluateOptions", names={"tasks": "--task"}, example="split=all")
def evaluate(
    run: Run, given: Given[EvaluateOptions], trust: Trusted = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Score a version on labelled cases."""
    options = given.settings()
    from comel.base.cores import limit_torch_threads
    from comel.scoring.evaluate import evaluate

    limit_torch_threads()
    split = None if options.split == "all" else options.split
    tell_notes(options.manifest, quiet=quiet or as_json)
    scores = evaluate(run, **{**dict(options), "split": split}, trust=trust or (), quiet=quiet or as_json)
    if as_json:
        print_json(scores)
        return
    for name, entry in scores["tasks"].items():
        typer.echo(f"{name}: {entry['cases']} cases")
        for mode, kinds in entry.items():
            if mode != "cases":
                _tell_scores(mode, kinds, scores["intervals"], name)


def _tell_scores(mode: str, kinds: Mapping[str, Any], intervals: Mapping[str, Any], task: str) -> None:
    """A line with the main scores of a task, each with its 95 % interval if it has one."""
    told = []
    for said, kind, name in (
        ("accuracy", "bag", "accuracy"),
        ("AUC", "bag", "auc"),
        ("instance AUC", "instance", "auc"),
        ("Dice", "instance", "dice"),
    ):
        interval = intervals[kind][mode][name]["tasks"][task]
        ends = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval and kinds[kind][name] is not None else ""
        told.append(f"{said} {number(kinds[kind][name])}{ends}")
    typer.echo(f"  {mode}: " + ", ".join(told))


def _tell_metrics(run: Path, as_json: bool) -> None:
    from comel.runs.metrics import read_metrics
    from comel.scoring.continual import ScoreTable, nested_run

    metrics = read_metrics(run / "metrics.json")
    if as_json:
        print_json(nested_run(metrics))
        return
    typer.echo(f"run: {run}, {len(metrics.stages)} versions, tasks {', '.join(metrics.tasks)}")
    for (kind, mode, name), accuracy in ScoreTable.of_run(metrics).continual.items():
        if (kind, name) == ("bag", "accuracy") and accuracy:
            said = f"accuracy {number(accuracy['final_average'])}, forgetting {number(accuracy['forgetting'])}"
            typer.echo(f"  {mode.key} {said}")


def _tell_runs(summary: Mapping[str, Any], path: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    typer.echo(f"{len(summary['runs'])} runs: {path}")
    for mode, scores in summary["continual"].get("bag", {}).items():
        told = [f"{said} {_mean_and_spread(scores['accuracy'].get(key))}" for said, key in _TOLD_OF_RUNS.items()]
        typer.echo(f"  {mode} " + ", ".join(told))


_TOLD_OF_RUNS = {"accuracy": "final_average", "forgetting": "forgetting"}


def _mean_and_spread(values: Mapping[str, Any] | None) -> str:
    if not values or values["mean"] is None:
        return "-"
    return f"{values['mean']:.3f}" + (f" ± {values['spread']:.3f}" if values["spread"] is not None else "")
