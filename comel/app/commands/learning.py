"""``comel train``, ``comel add-task`` and ``comel evaluate``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from comel.app.commands.options import Device, Json, Quiet, Run, Set, Trusted, Version, number, print_json
from comel.errors import ComelError

__all__ = ["EPILOGS", "add_task", "evaluate", "quoted", "train"]

EPILOGS = {
    "train": "Example: comel train --manifest cohort/manifest.csv --bags bags --strategy owlora --out runs/owlora",
    "add-task": "Example: comel add-task runs/owlora --manifest liver.csv --bags liver-bags",
    "evaluate": "Example: comel evaluate runs/owlora --manifest cohort/manifest.csv --bags bags --json",
}


Root = Annotated[Path | None, typer.Option(help="Folder that the manifest's paths start from and lie in; default its own.")]
AssumeEncoder = Annotated[str | None, typer.Option(help="Encoder of feature files that do not name theirs.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out slides without features instead of stopping.")]


def train(
    out: Annotated[Path, typer.Option(help="Run directory; the same command goes on with an unfinished run.")],
    config: Annotated[Path | None, typer.Option(help="YAML with sections data, model, strategy, trainer.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="The cohort's CSV.")] = None,
    bags: Annotated[Path | None, typer.Option(help="Folder of feature files.")] = None,
    root: Root = None,
    strategy: Annotated[str | None, typer.Option(help="Name of a strategy, such as owlora, or file.py:Class.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs a task.")] = None,
    assume_encoder: AssumeEncoder = None,
    skip_missing: SkipMissing = False,
    settings: Set = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validate: a run a fold, in OUT/fold-0 and on.")] = None,
    orders: Annotated[int | None, typer.Option(help="So many orders of the tasks: a run each, in OUT/order-0 and on.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run's own settings.")] = False,
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train over a stream of tasks, one version a task."""
    from comel.runs.config import load_config

    if (folds is not None) + (orders is not None) + resume > 1:
        raise ComelError(
            "--folds, --orders and --resume do not go together", "give one; the same --folds or --orders command goes on"
        )
    given = {
        "data.manifest": manifest,
        "data.bags": bags,
        "data.root": root,
        "data.assume_encoder": assume_encoder,
        "strategy.name": strategy,
        "trainer.epochs": epochs,
    }
    overrides = [f"{key}={quoted(value)}" for key, value in given.items() if value is not None]
    overrides += ["data.skip_missing=true"] if skip_missing else []
    if resume and (config is not None or overrides or settings):
        raise ComelError("--resume takes the settings of the run", "leave the other settings out, or train a new run with them")
    chosen = load_config(config, [*overrides, *(settings or [])])
    silent = quiet or as_json
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


def add_task(
    run: Run,
    manifest: Annotated[Path, typer.Option(help="The new tasks' cohort.")],
    bags: Annotated[Path, typer.Option(help="The new tasks' feature files.")],
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    root: Root = None,
    assume_encoder: AssumeEncoder = None,
    skip_missing: SkipMissing = False,
    settings: Set = None,
    trust: Trusted = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Teach a finished run a new task from its bags alone; the old version stays usable."""
    from comel.training.train import add_task as teach

    overrides = [*(settings or []), *(["data.skip_missing=true"] if skip_missing else [])]
    overrides += [] if assume_encoder is None else [f"data.assume_encoder={quoted(assume_encoder)}"]
    teach(run, manifest, bags, tasks=task, root=root, overrides=overrides, trust=trust or (), quiet=quiet or as_json)
    _tell_metrics(run, as_json)


def evaluate(
    run: Run,
    manifest: Annotated[Path, typer.Option(help="Labelled cases of tasks that the run has learned.")],
    bags: Annotated[Path, typer.Option(help="Their feature files.")],
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Only this task; may be repeated.")] = None,
    version: Version = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    table: Annotated[Path | None, typer.Option(help="CSV of the predictions of single cases to write.")] = None,
    root: Root = None,
    assume_encoder: AssumeEncoder = None,
    skip_missing: SkipMissing = False,
    trust: Trusted = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a version on labelled cases."""
    if split not in ("train", "val", "test", "all"):
        raise ComelError(f"--split {split}: no such split", "say train, val, test or all")
    from comel.base.cores import limit_torch_threads
    from comel.scoring.evaluate import evaluate

    limit_torch_threads()
    scores = evaluate(
        run,
        manifest,
        bags,
        version=version,
        split=None if split == "all" else split,
        tasks=tasks,
        table=table,
        device=device,
        root=root,
        assume_encoder=assume_encoder,
        skip_missing=skip_missing,
        trust=trust or (),
        quiet=quiet or as_json,
    )
    if as_json:
        print_json(scores)
        return
    for name, entry in scores["tasks"].items():
        typer.echo(f"{name}: {entry['cases']} cases")
        for mode, kinds in entry.items():
            if mode != "cases":
                _tell_scores(mode, kinds, scores["intervals"], name)


def quoted(value: Any) -> str:
    """An option's value as YAML, as it stands after ``--set key=``."""
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def _tell_scores(mode: str, kinds: Mapping[str, Any], intervals: Mapping[str, Any], task: str) -> None:
    """A line with the main scores of a task, each with its 95 % interval where it has one."""
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
    from comel.base.files import read_json

    metrics = read_json(run / "metrics.json")
    if as_json:
        print_json(metrics)
        return
    typer.echo(f"run: {run}, {len(metrics['stages'])} versions, tasks {', '.join(metrics['tasks'])}")
    for mode, scores in metrics["continual"].get("bag", {}).items():
        accuracy = scores["accuracy"]
        if accuracy:
            typer.echo(f"  {mode} accuracy {number(accuracy['final_average'])}, forgetting {number(accuracy['forgetting'])}")


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
