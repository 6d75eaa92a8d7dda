"""A benchmark's table: mean and spread over seeds, as text, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comel.app.benchmark.runner import RowResult
from comel.base.files import atomic_path, write_json, write_text

__all__ = ["by_task", "markdown", "summarise", "tables", "write_tables"]

COLUMNS = {
    "accuracy": "accuracy",
    "within_task_accuracy": "within task",
    "auc": "AUC",
    "pooled_auc": "pooled AUC",
    "pooled_auc_low": "from",
    "pooled_auc_high": "to",
    "forgetting": "forgetting",
    "instance_auc": "instance AUC",
    "dice": "Dice",
    "dice_forgetting": "Dice forgetting",
    "trained_parameters": "trained",
    "old_data_bytes": "old data",
    "seconds_per_task": "s/task",
}
_WHOLE = {"trained_parameters", "old_data_bytes"}


def summarise(results: Sequence[RowResult]) -> dict[str, dict[str, Any]]:
    """By row: its group, the seeds that count, the reason of a refusal, and ``mean`` and ``std`` of every measure.

    The spread is the sample standard deviation over seeds; a measure that some seeds lack is over the others.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(result.row for result in results):
        mine = [result for result in results if result.row == name]
        entry: dict[str, Any] = {
            "group": mine[0].group,
            "seeds": [r.seed for r in mine if not r.refused],
            "mean": {},
            "std": {},
        }
        entry["refused"] = next((r.refused for r in mine if r.refused), None)
        for measure in COLUMNS:
            values = [value for r in mine if (value := r.measures.get(measure)) is not None]
            entry["mean"][measure] = float(np.mean(values)) if values else None
            entry["std"][measure] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        entry["tasks"] = _tasks(mine)
        summary[name] = entry
    return summary


def markdown(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, group by group; scores in percent, mean ± standard deviation over seeds."""
    lines = []
    shown = {m: title for m, title in COLUMNS.items() if any(entry["mean"][m] is not None for entry in summary.values())}
    for group in dict.fromkeys(entry["group"] for entry in summary.values()):
        lines += ["", f"| {group} | " + " | ".join(shown.values()) + " |", "|---" + "|---:" * len(shown) + "|"]
        for name, entry in summary.items():
            if entry["group"] == group:
                cells = [_cell(measure, entry["mean"][measure], entry["std"][measure]) for measure in shown]
                text = " | ".join(cells) if entry["seeds"] else "refused: " + entry["refused"].replace("|", "\\|")
                lines.append(f"| {name} | {text} |")
    return "\n".join(lines[1:]) + "\n"


def _tasks(results: Sequence[RowResult]) -> dict[str, dict[str, float]]:
    """For each task, the mean of each of its scores over seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for task, scores in result.tasks.items():
            for measure, value in scores.items():
                found.setdefault(task, {}).setdefault(measure, []).append(value)
    return {task: {measure: float(np.mean(values)) for measure, values in scores.items()} for task, scores in found.items()}


def by_task(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per row, one column per task: accuracy (bag AUC, instance AUC) in percent, task given, mean over seeds."""
    tasks = list(dict.fromkeys(task for entry in summary.values() for task in entry["tasks"]))
    lines = ["| accuracy (AUC, instance AUC) | " + " | ".join(tasks) + " |", "|---" + "|---:" * len(tasks) + "|"]
    for name, entry in summary.items():
        cells = [_scores(entry["tasks"].get(task, {})) for task in tasks]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if tasks else ""


def _scores(scores: Mapping[str, float]) -> str:
    values = [f"{100 * scores[name]:.0f}" if name in scores else "-" for name in ("accuracy", "auc", "instance_auc")]
    return f"{values[0]} ({values[1]}, {values[2]})"


def tables(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of rows, and below it the table of tasks."""
    return "\n".join(part for part in (markdown(summary), by_task(summary)) if part)


def write_tables(out: Path, suite: str, settings: Mapping[str, Any], results: Sequence[RowResult]) -> dict[str, Any]:
    """``results.json`` (settings, every seed, the summary), ``results.csv`` (one line per row and seed) and ``table.md``."""
    import pandas

    summary = summarise(results)
    content = {
        "suite": suite,
        "settings": dict(settings),
        "rows": summary,
        "results": [{"row": r.row, "seed": r.seed, "refused": r.refused, **r.measures} for r in results],
        "tasks": [{"row": r.row, "seed": r.seed, **r.tasks} for r in results],
    }
    write_json(out / "results.json", content)
    with atomic_path(out / "results.csv") as path:
        pandas.DataFrame(content["results"]).to_csv(path, index=False)
    write_text(out / "table.md", tables(summary))
    return content


def _cell(measure: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    if measure in _WHOLE:
        return f"{mean:,.0f}"
    if measure == "seconds_per_task":
        return f"{mean:.1f}"
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")
