"""Several runs side by side: one table per kind of score, one of their cost, and their curves in common charts."""

from __future__ import annotations

from collections.abc import Sequence

from comel.base.units import Mode
from comel.reporting.blocks import Block, Group, Table, Text, figures
from comel.reporting.charts import Chart, Line
from comel.reporting.collect import Report
from comel.reporting.scores import average_over_seen, stage_names
from comel.reporting.tables import MISSING, count, duration, score
from comel.reporting.training import total_seconds
from comel.reporting.vocabulary import KINDS, LOWER_IS_BETTER, MAIN_SCORES, score_name

__all__ = ["comparison", "differences"]

_SHOWN = {"final_average": "final average", "forgetting": "forgetting", "backward_transfer": "backward transfer",
          "forward_transfer": "forward transfer"}  # fmt: skip


def comparison(reports: Sequence[Report]) -> list[Block]:
    """The best value of a column is emphasised if the runs learned the same tasks in the same mode."""
    warnings = differences(reports)
    groups = dict.fromkeys(group for kind in KINDS for report in reports for group in report.scores.groups if group[0] == kind)
    tables = [_table(reports, kind, mode, emphasise=not warnings) for kind, mode in groups]
    return [*(Text(words, "warning") for words in warnings), *tables, _cost(reports), _curves(reports)]


def differences(reports: Sequence[Report]) -> list[str]:
    """Why the runs' numbers are not comparable, in words; empty if they are."""
    found = []
    if len({report.mode for report in reports}) > 1:
        found.append("The runs differ in their mode, so their scores answer different questions.")
    if len({frozenset(report.metrics.tasks) for report in reports}) > 1:
        found.append("The runs have learned different tasks, so their averages are over different test cases.")
    elif len({_test_slides(report) for report in reports}) > 1:
        found.append("The runs were tested on different slides.")
    if not all(report.metrics.finished for report in reports):
        unfinished = ", ".join(report.name for report in reports if not report.metrics.finished)
        found.append(f"Not finished: {unfinished}.")
    return found


def _test_slides(report: Report) -> frozenset[tuple[str, str]]:
    tasks = report.newest.tasks if report.newest else []
    return frozenset((task.name, slide) for task in tasks for slide in task.slides.get("test", []))


def _table(reports: Sequence[Report], kind: str, mode: Mode, *, emphasise: bool) -> Table:
    wanted = [(name, key) for name in MAIN_SCORES[kind] for key in _SHOWN]
    if kind == "bag":
        wanted.append(("ece", "final_average"))
    reports = [report for report in reports if (kind, mode) in report.scores.groups]
    values = [[report.scores.statistic(kind, mode, *keys) for keys in wanted] for report in reports]
    used = [column for column in range(len(wanted)) if any(line[column] is not None for line in values)]
    strong = set()
    for place, column in enumerate(used, start=1):
        # As printed: values that look the same count as equal.
        known = [round(value, 3) for line in values if (value := line[column]) is not None]
        lower = wanted[column][1] == "forgetting" or wanted[column][0] in LOWER_IS_BETTER
        best = min(known) if lower else max(known)
        if emphasise and len(set(known)) > 1:
            for row, line in enumerate(values):
                value = line[column]
                strong |= {(row, place)} if value is not None and round(value, 3) == best else set()
    rows = []
    for report, line in zip(reports, values, strict=True):
        cells = []
        for column in used:
            name, key = wanted[column]
            cells.append(score(line[column], report.scores.interval(kind, mode, name) if key == "final_average" else None))
        rows.append((report.name, *cells))
    columns = ["run", *(f"{score_name(wanted[column][0])}, {_SHOWN[wanted[column][1]]}" for column in used)]
    return Table(columns, rows, f"{KINDS[kind]} scores, {mode}", strong)


def _cost(reports: Sequence[Report]) -> Table:
    rows = []
    for report in reports:
        stages = report.metrics.stages
        seconds = total_seconds(report)
        old = [stage.old_data_bytes for stage in stages if stage.old_data_bytes is not None]
        rows.append(
            (
                report.name,
                report.strategy,
                str(report.section("model").get("name", MISSING)),
                report.mode,
                count(len(report.metrics.tasks)),
                duration(seconds),
                count(stages[-1].trained_parameters if stages else None),
                count(max(old) if old else None),
                "yes" if report.metrics.finished else "no",
            )
        )
    columns = ["run", "strategy", "model", "mode", "tasks", "training, s", "parameters, last stage",
               "old data, bytes", "finished"]  # fmt: skip
    return Table(columns, rows, "Settings and cost")


def _curves(reports: Sequence[Report]) -> Group:
    charts = []
    longest = max(reports, key=lambda report: len(report.metrics.stages))
    names = stage_names(longest.metrics)
    same = all(stage_names(report.metrics) == names[: len(report.metrics.stages)] for report in reports if not _at_once(report))
    stages = max(1, len(longest.metrics.stages))
    for kind, name in (("bag", "accuracy"), ("instance", "auc"), ("instance", "dice")):
        lines = []
        for report in reports:
            rows = report.scores.matrix(kind, report.mode, name)
            places = [stages] * len(rows) if _at_once(report) else range(1, len(rows) + 1)
            lines.append(Line(report.name, places, average_over_seen(report.metrics, rows)))
        if any(value is not None for line in lines for value in line.y):
            charts.append(
                Chart(f"{KINDS[kind]} {score_name(name)}, mean of tasks learned", lines,
                      x_label="after task", y_label=score_name(name), x_range=(0.8, stages + 0.2), y_range=(0.0, 1.0),
                      x_names=names if same else [str(n + 1) for n in range(stages)])
            )  # fmt: skip
    return figures(charts)


def _at_once(report: Report) -> bool:
    """Whether the run learned several tasks in one stage; its only row belongs at the end of the others' curves."""
    return len(report.metrics.stages) == 1 and len(report.metrics.tasks) > 1
