"""The sections of a page on a run's scores: summary, R matrices, curves over tasks, test cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from comel.base.units import Mode
from comel.reporting.blocks import Block, Cards, Fold, Group, Table, Text, figures, note
from comel.reporting.cases import CaseTable, calibration_error, confusion, reliability, roc_curves
from comel.reporting.charts import Bar, Chart, Line
from comel.reporting.collect import Report
from comel.reporting.tables import heat_table, score
from comel.reporting.vocabulary import (
    KINDS,
    LOWER_IS_BETTER,
    MAIN_SCORES,
    STATISTICS,
    in_order,
    score_name,
)
from comel.runs.metrics import RunMetrics
from comel.scoring.continual import ScoreTable

__all__ = ["average_over_seen", "curves", "headline", "matrices", "stage_names", "statistics", "summary", "test_cases"]

_UNIT = (0.0, 1.0)


def headline(report: Report) -> list[tuple[str, str]]:
    """The headline numbers, by name."""
    mode = report.mode
    given = [("accuracy, task given", "bag", Mode.TASK, "accuracy", "final_average")] if mode == Mode.CLASS else []
    wanted = [
        (f"{mode} accuracy", "bag", mode, "accuracy", "final_average"),
        *given,
        ("forgetting of accuracy", "bag", mode, "accuracy", "forgetting"),
        ("instance AUC", "instance", mode, "auc", "final_average"),
        ("instance Dice", "instance", mode, "dice", "final_average"),
    ]
    return [(words, score(report.scores.statistic(kind, asked, name, key))) for words, kind, asked, name, key in wanted]


def summary(report: Report) -> list[Block]:
    """Headline numbers, then every score with average, forgetting and transfers, one table per kind and mode."""
    table = report.scores
    blocks: list[Block] = [Cards(headline(report))]
    for kind, mode in _kinds_and_modes(table):
        rows = [(score_name(name), *statistics(table, kind, mode, name)) for name in in_order(kind, table.names(kind, mode))]
        caption = f"{KINDS.get(kind, kind)} scores, {mode}"
        blocks.append(Table([score_name(kind), *STATISTICS.values()], rows, caption))
    for mode in dict.fromkeys(mode for _, mode in _kinds_and_modes(table)):
        blocks += _by_task(table, mode)
    remark = note(
        "Means over tasks, on test cases. Intervals, where there are any, hold 95 % of resamples of patients.",
        "Forgetting is the best score a task ever had, less the last; backward transfer is the last less the first.",
    )
    return [*blocks, remark]


def statistics(table: ScoreTable, kind: str, mode: Mode, name: str) -> list[str]:
    """A score's statistics as text, in the order of ``STATISTICS``. Forgetting is given only for scores that should be high."""
    values = {key: table.statistic(kind, mode, name, key) for key in STATISTICS}
    if name in LOWER_IS_BETTER:
        values["forgetting"] = None
    interval = table.interval(kind, mode, name)
    return [score(value, interval if key == "final_average" else None) for key, value in values.items()]


def _by_task(table: ScoreTable, mode: Mode) -> list[Block]:
    """Each task's main scores at the end, if the run has intervals for them."""
    keys = [(kind, name) for kind, other in _kinds_and_modes(table) if other == mode for name in MAIN_SCORES.get(kind, ())]
    keys = [(kind, name) for kind, name in keys if table.matrix(kind, mode, name)]
    if not any(table.interval(kind, mode, name, task) for kind, name in keys for task in table.tasks):
        return []
    rows = []
    for column, task in enumerate(table.tasks):
        last = [table.matrix(kind, mode, name)[-1][column] for kind, name in keys]
        ends = [table.interval(kind, mode, name, task) for kind, name in keys]
        rows.append((task, *map(score, last, ends)))
    columns = ["task", *(f"{KINDS.get(kind, kind)} {score_name(name)}" for kind, name in keys)]
    return [Table(columns, rows, f"Each task at the end, {mode}")]


def matrices(report: Report) -> list[Block]:
    """R matrices as heat tables: the main scores open, the others folded."""
    table, learned, rows = report.scores, report.metrics.learned_at, stage_names(report.metrics)
    columns = table.tasks
    blocks: list[Block] = []
    for kind, mode in _kinds_and_modes(table):
        tables = []
        for name in in_order(kind, table.names(kind, mode)):
            values = table.matrix(kind, mode, name)
            means = average_over_seen(report.metrics, values)
            lines = [(row, [*line, mean]) for row, line, mean in zip(rows, values, means, strict=True)]
            faint = [[learned.get(task, len(rows)) > r for task in columns] + [False] for r in range(len(rows))]
            untrained = table.chance(kind, mode, name)
            if len(untrained) == len(columns):
                lines.insert(0, ("untrained", [*untrained, None]))
                faint.insert(0, [True] * (len(columns) + 1))
            heats = heat_table(
                f"{KINDS.get(kind, kind)} {score_name(name)}, {mode}",
                [*columns, "mean of learned"],
                lines,
                corner="after \\ score on",
                faint=faint,
            )
            tables.append((name in MAIN_SCORES.get(kind, ()), heats))
        blocks += [heats for main, heats in tables if main]
        rest = [heats for main, heats in tables if not main]
        if rest:
            title = f"Other {kind} scores, {mode}"
            blocks.append(Fold(title, [Group("grid-of-tables", rest)]))
    remark = note(
        "A row is the model after learning a task, a column the task it is tested on. Darker is higher;",
        "italics are scores on a task not yet learned; - is a score that is not defined.",
    )
    return [Group("grid-of-tables", blocks), remark]


def curves(report: Report) -> list[Block]:
    """The mean over the tasks learned so far after each of them, and each task's own curve."""
    table, metrics, mode = report.scores, report.metrics, report.mode
    stages = range(1, len(metrics.stages) + 1)
    axes: dict[str, Any] = {"x_label": "after task", "y_range": _UNIT, "x_names": stage_names(metrics)}
    axes["x_range"] = (0.8, len(stages) + 0.2)
    charts = []
    for kind, name in (("bag", "accuracy"), ("instance", "auc"), ("instance", "dice")):
        means = [
            Line(other, stages, average_over_seen(metrics, matrix))
            for group, other in table.groups
            if group == kind and (matrix := table.matrix(kind, other, name))
        ]
        words = f"{KINDS[kind]} {score_name(name)}"
        own = [
            Line(task, stages, [row[column] for row in matrix])
            for column, task in enumerate(table.tasks)
            if (matrix := table.matrix(kind, mode, name))
        ]
        if any(value is not None for line in means for value in line.y):
            charts.append(Chart(f"{words}, mean of tasks learned", means, y_label=score_name(name), **axes))
        if any(value is not None for line in own for value in line.y):
            charts.append(Chart(f"{words} by task, {mode}", own, y_label=score_name(name), **axes))
    return [figures(charts) if charts else Text("No score is defined after any task.")]


def test_cases(report: Report) -> list[Block]:
    """ROC per class, reliability, confusion: all test cases under the newest version, task not given."""
    cases = report.cases
    if cases is None or not len(cases):
        return [Text("There are no predictions of test cases.")]
    rocs = [
        Line(f"{roc.name}, AUC {roc.auc:.3f}", roc.false_positive_rate.tolist(), roc.true_positive_rate.tolist())
        for roc in roc_curves(cases)
    ]
    charts = [
        Chart("ROC, each class against all others", rocs, x_label="false positive rate", y_label="true positive rate",
              x_range=_UNIT, y_range=_UNIT, diagonal=True, size=(400, 370))
    ] if rocs else []  # fmt: skip
    charts.append(_reliability(cases))
    counts = confusion(cases)
    totals = np.maximum(1, counts.sum(axis=1, keepdims=True))
    table = heat_table(
        "Confusion: test cases by true and predicted class",
        cases.classes,
        [(name, list(row)) for name, row in zip(cases.classes, (counts / totals).tolist(), strict=True)],
        corner="true \\ predicted",
        texts=[[str(cell) for cell in row] for row in counts.tolist()],
    )
    whose = f"{len(cases)} test cases of {len(set(cases.patients))} patients"
    return [figures(charts), table, note(f"{whose}; the ground of a cell is its share of the row."), *_strange(cases)]


def _strange(cases: CaseTable) -> list[Block]:
    """The number of test cases of each task flagged as unlike anything learned, if the run has flags."""
    if cases.strange is None:
        return []
    rows = []
    for task in dict.fromkeys(cases.tasks):
        of_task = np.array([other == task for other in cases.tasks])
        flagged = int(cases.strange[of_task].sum())
        rows.append((task, str(of_task.sum()), str(flagged), f"{100 * flagged / of_task.sum():.1f} %"))
    remark = note(
        "Test cases are of the kind that was learned, so about one in a hundred is flagged, or fewer.",
        "A larger share indicates that they differ from the training cases, for example in scanner or stain.",
    )
    columns = ["task", "test cases", "flagged", "share"]
    return [Table(columns, rows, "Test cases flagged as unlike anything learned"), remark]


def _reliability(cases: CaseTable) -> Chart:
    bins = reliability(cases)
    error = calibration_error(cases)
    line = Line("observed", [confidence for confidence, _, _ in bins], [accuracy for _, accuracy, _ in bins])
    width = 1 / 15
    bars = []
    for confidence, accuracy, cases_in_bin in bins:
        left = min(int(np.ceil(confidence / width - 1e-9)) - 1, 14) * width
        words = f"{cases_in_bin} cases, confidence {confidence:.3f}, right {accuracy:.3f}"
        bars.append(Bar(left, left + width, accuracy, words))
    return Chart(
        f"Reliability, calibration error {score(error)}",
        [line],
        x_label="confidence",
        y_label="share that is right",
        x_range=_UNIT,
        y_range=_UNIT,
        bars=bars,
        diagonal=True,
        size=(400, 370),
    )


def stage_names(metrics: RunMetrics) -> list[str]:
    """What was learned in each stage."""
    return [" + ".join(stage.learned) or f"stage {n}" for n, stage in enumerate(metrics.stages, start=1)]


def average_over_seen(metrics: RunMetrics, rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """For each row the mean over the tasks learned by then; None if one of them has no score."""
    learned = metrics.learned_at
    means: list[float | None] = []
    for number, row in enumerate(rows):
        seen = [value for task, value in zip(metrics.tasks, row, strict=True) if learned.get(task, len(rows)) <= number]
        known = [value for value in seen if value is not None]
        means.append(float(np.mean(known)) if known and len(known) == len(seen) else None)
    return means


def _kinds_and_modes(table: ScoreTable) -> list[tuple[str, Mode]]:
    order = [*KINDS, *(kind for kind, _ in table.groups)]
    return sorted(table.groups, key=lambda group: order.index(group[0]))
