"""The sections of a page on how a run was trained: losses, time and size of each stage, room for further adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from comel.reporting.blocks import Block, Fold, Table, Text, figures
from comel.reporting.charts import Bar, Chart, Line
from comel.reporting.collect import Epoch, Report, number
from comel.reporting.scores import stage_names
from comel.reporting.tables import count, duration

__all__ = ["chosen", "cost", "losses", "strategy_report", "total_seconds"]

_WIDE = (880, 280)


def losses(report: Report) -> list[Block]:
    """Loss terms by epoch, all stages one after another, and the model's own measures that lie between 0 and 1."""
    epochs = report.epochs
    if not epochs:
        return [Text("The run has no record of its epochs.")]
    borders = [n + 0.5 for n, (a, b) in enumerate(pairwise(epochs), start=1) if a.stage != b.stage]
    axes: dict[str, Any] = {"x_label": "epoch, stages one after another", "borders": borders, "size": _WIDE}
    charts = [Chart("Training loss by term, mean over bags", _lines(epochs, "losses"), y_label="loss", **axes)]
    measures = [line for line in _lines(epochs, "measures") if all(y is None or 0 <= y <= 1 for y in line.y)]
    if measures:
        charts.append(Chart("Measures that the model reports", measures, y_label="share", y_range=(0.0, 1.0), **axes))
    return [figures(charts)]


def _lines(epochs: Sequence[Epoch], field: str) -> list[Line]:
    values: list[Mapping[str, float]] = [getattr(epoch, field) for epoch in epochs]
    names = dict.fromkeys(name for entry in values for name in entry)
    places: list[float] = []
    order: list[int | None] = []
    for index, epoch in enumerate(epochs):
        # A line is broken between stages: the next value is another task's loss.
        if index and epochs[index - 1].stage != epoch.stage:
            places.append(index + 0.5)
            order.append(None)
        places.append(index + 1)
        order.append(index)
    return [Line(name, places, [None if i is None else values[i].get(name) for i in order]) for name in names]


def cost(report: Report) -> list[Block]:
    """One row per stage: what it learned, its training cases, duration, parameters and old data."""
    cases = {task.name: task.training_cases for task in report.newest.tasks} if report.newest else {}
    rows = []
    for index, (stage, name) in enumerate(zip(report.metrics.stages, stage_names(report.metrics), strict=True)):
        trained = [cases.get(task) for task in stage.learned]
        known = [value for value in trained if value is not None]
        rows.append(
            (
                index + 1,
                name,
                stage.version,
                count(sum(known) if known else None),
                count(sum(epoch.stage == index for epoch in report.epochs)),
                duration(report.seconds(index)),
                count(stage.trained_parameters),
                count(stage.old_data_bytes),
            )
        )
    if not rows:
        return [Text("No stage is done.")]
    columns = ["stage", "learned", "version", "training cases", "epochs", "seconds", "trained parameters", "old data, bytes"]
    return [Table(columns, rows)]


def chosen(report: Report) -> list[Block]:
    """The choices on each task's validation cases: the instance threshold and the temperature of its head."""
    if report.newest is None:
        return []
    rows = [
        (task.name, f"{task.threshold:.3f}", task.threshold_chosen_on, f"{task.temperature:.3f}")
        for task in report.newest.tasks
    ]
    columns = ["task", "instance threshold", "chosen on", "temperature"]
    return [Table(columns, rows, "Threshold and temperature of each task")]


def total_seconds(report: Report) -> float | None:
    """Training time of all stages, or None if one is unknown."""
    seconds = [report.seconds(stage) for stage in range(len(report.metrics.stages))]
    known = [value for value in seconds if value is not None]
    return sum(known) if known and len(known) == len(seconds) else None


def strategy_report(report: Report) -> list[Block]:
    """What the strategy reports: directions left for adapters, layer by layer, and everything else verbatim."""
    if report.newest is None or not report.newest.report:
        return []
    said = dict(report.newest.report)
    blocks: list[Block] = []
    warning = said.pop("warning", None)
    if warning:
        blocks.append(Text(str(warning), "warning"))
    left = [(info.version, number(info.report.get("adapters_left"))) for info in report.versions]
    if any(value is not None for _, value in left):
        words = ", ".join(f"{count(value)} after version {version}" for version, value in left)
        blocks.append(Text(f"Further adapters that fit, by the tightest layer: {words}."))
        said.pop("adapters_left", None)
    layers = said.pop("capacity", None)
    if isinstance(layers, dict) and layers:
        blocks.append(_capacity(layers))
    if said:
        text = json.dumps(said, indent=2, ensure_ascii=False, default=str)
        blocks.append(Fold("Everything else that the strategy reports", text=text))
    return blocks


def _capacity(layers: Mapping[str, Any]) -> Block:
    known = {str(name): layer for name, layer in layers.items() if isinstance(layer, dict)}
    keys = list(dict.fromkeys(key for layer in known.values() for key in layer))
    shares, rows = [], []
    for index, (name, layer) in enumerate(known.items()):
        width, protected = number(layer.get("in")), number(layer.get("protected"))
        if width and protected is not None:
            shares.append(Bar(index + 0.6, index + 1.4, protected / width, f"{name}: {protected:.0f} of {width:.0f} protected"))
        rows.append((name, *(count(number(layer.get(key))) for key in keys)))
    table = Table(["layer", *(key.replace("_", " ") for key in keys)], rows, "Directions of each layer")
    if not shares:
        return table
    figure = Chart(
        "Share of input directions that is protected",
        [],
        x_label="layer, in the table's order",
        y_label="share",
        x_range=(0.5, len(known) + 0.5),
        y_range=(0.0, 1.0),
        bars=shares,
    )
    return figures([table, figure])
