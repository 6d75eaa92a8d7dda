"""The demonstration: the whole pipeline on a synthetic cohort, with a table at the end.

Part of the composition root. ``configs/demo.yaml`` defines the steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import comel
from comel.app import api
from comel.base.files import atomic_path, write_json
from comel.base.units import Mode
from comel.runs.directory import RunDirectory

__all__ = ["run_demo"]

_AHEAD = 0.05
_COLUMNS = {
    "class-incremental accuracy": ("bag", Mode.CLASS, "accuracy", "final_average"),
    "within-task accuracy": ("bag", Mode.TASK, "accuracy", "final_average"),
    "forgetting": ("bag", Mode.CLASS, "accuracy", "forgetting"),
    "instance AUC": ("instance", Mode.CLASS, "auc", "final_average"),
    "instance Dice": ("instance", Mode.CLASS, "dice", "final_average"),
}


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    slides_per_organ: int | None = None,
    size: int | None = None,
    epochs: int | None = None,
    rows: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the demonstration into ``out``; finished work is kept, so that it may be stopped and started again.

    Args:
        out: the folder for cohort, bags, runs, predictions and ``summary.json``.
        seed: the synthetic cohort's seed.
        slides_per_organ: overrides the config's.
        size: side of a slide in level-0 pixels, instead of the generator's default.
        epochs: overrides the config's.
        rows: overrides the config's: ``{name: {"strategy": ..., "model": ...}}``.
        quiet: print no progress and no table.

    Returns:
        The summary that is also written to ``summary.json``.
    """
    import yaml

    from comel.runs.metrics import read_metrics
    from comel.scoring.continual import ScoreTable

    config = yaml.safe_load((resources.files("configs") / "demo.yaml").read_text(encoding="utf-8"))
    config["synth"] |= {"seed": seed} | ({"slides_per_organ": slides_per_organ} if slides_per_organ else {})
    config["synth"] |= {"size": size} if size else {}
    config["trainer"] |= {"epochs": epochs} if epochs else {}
    say = _Voice(quiet)
    started = time.monotonic()
    seconds: dict[str, float] = {}

    say.step("1 of 4", "a synthetic cohort: computer-made slides, not tissue")
    with _timed(seconds, "synth"):
        manifest = api.synth(out / "cohort", quiet=quiet, **config["synth"])
    say.step("2 of 4", "slides to bags of tile features")
    with _timed(seconds, "extract"):
        report = api.extract(manifest, out / "bags", quiet=quiet, **config["extract"])
    table: dict[str, dict[str, float | None]] = {}
    data = {"manifest": manifest, "bags": out / "bags"}
    for name, row in (rows or config["rows"]).items():
        say.step("3 of 4", f"training '{name}' over the organs, one after another")
        settings = {"data": data, "trainer": config["trainer"], **row}
        run = out / "runs" / name
        if not RunDirectory(run).is_finished:
            with _timed(seconds, f"train {name}"):
                comel.train(settings, run, quiet=quiet)
        scores = ScoreTable.of_run(read_metrics(run / "metrics.json"))
        table[name] = {column: scores.statistic(*wanted) for column, wanted in _COLUMNS.items()}
    best = out / "runs" / list(table)[-1]
    say.step("4 of 4", "predictions with maps for the test slides")
    tests = _test_manifest(manifest)
    with _timed(seconds, "predict"):
        predictions = comel.predict(best, [tests], out / "predictions", bags=out / "bags", quiet=quiet)

    seconds["total"] = round(time.monotonic() - started, 1)
    summary = {
        "synthetic": True,
        "notice": "The images are computer-made; the figures say how the software works, nothing about tissue.",
        "seed": seed,
        "slides": report.done + report.skipped,
        "tiles": report.tiles,
        "table": table,
        "verdict": _verdict(table),
        "seconds": seconds,
        "maps": str(out / "predictions"),
        "overlays": str(out / "bags" / "overlays"),
        "run": str(best),
        "predicted": len(predictions),
        "serve": f"comel serve --model {best} --slides {out / 'cohort' / 'slides'}",
    }
    write_json(out / "summary.json", summary)
    say.summary(summary, out)
    return summary


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


class _Voice:
    """The demonstration's output for a person."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)

    def step(self, number: str, text: str) -> None:
        self._console.print(f"[bold]{number}[/bold]  {text}")

    def summary(self, summary: Mapping[str, Any], out: Path) -> None:
        from rich.table import Table

        shown = Table(title="after the last organ, on test slides (synthetic images)")
        shown.add_column("strategy")
        for column in _COLUMNS:
            shown.add_column(column, justify="right")
        for name, scores in summary["table"].items():
            shown.add_row(name, *("-" if value is None else f"{value:.3f}" for value in scores.values()))
        self._console.print(shown)
        self._console.print(summary["verdict"])
        self._console.print(f"maps:      {summary['maps']}/*.png, GeoJSON for QuPath beside them")
        self._console.print(f"overlays:  {summary['overlays']}/*.png")
        self._console.print(f"summary:   {out / 'summary.json'}")
        self._console.print(f"serve it:  {summary['serve']}")
        self._console.print(f"{summary['seconds']['total']:.0f} s in all. Research use only, not for diagnosis.")


def _verdict(table: Mapping[str, Mapping[str, float | None]]) -> str:
    """A sentence on whether the continual model is ahead of fine-tuning by 5 points in accuracy and in forgetting."""
    if not {"finetune", "owlora"} <= set(table):
        return ""
    ours, floor = table["owlora"], table["finetune"]
    gains = []
    for column, sign in (("class-incremental accuracy", 1), ("forgetting", -1)):
        a, b = ours[column], floor[column]
        gains.append(sign * (a - b) if a is not None and b is not None else 0.0)
    points = f"{100 * gains[0]:+.1f} points of class-incremental accuracy, {100 * gains[1]:.1f} points less forgetting"
    if min(gains) >= _AHEAD:
        return f"owlora is clearly ahead of fine-tuning: {points}."
    return f"owlora is NOT clearly ahead of fine-tuning here: {points}."


def _test_manifest(manifest: Path) -> Path:
    """The cohort's test rows as a separate manifest beside it."""
    import pandas

    rows = pandas.read_csv(manifest, dtype=str)
    path = manifest.with_name("test.csv")
    with atomic_path(path) as temporary:
        rows[rows["split"] == "test"].to_csv(temporary, index=False)
    return path
