"""The page: one self-contained HTML file without network or script. ``templates/report.html`` is its skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from comel.prediction.prediction import NOTICE
from comel.reporting import provenance, scores, training
from comel.reporting.blocks import Block, Heading, Text, note
from comel.reporting.collect import Report
from comel.reporting.compare import comparison
from comel.reporting.slides import SlideMaps, Slides
from comel.reporting.together import Together, over_the_runs

__all__ = ["page", "template"]


@cache
def template(name: str) -> Any:
    """One of the ``templates/``; inserted text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("comel.reporting")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def page(reports: Sequence[Report], maps: Sequence[SlideMaps], together: Sequence[Together] = ()) -> str:
    """The whole page of one or several runs; ``maps`` are each run's slides, ``together`` the folds or orders of the runs."""
    several = len(reports) > 1
    text: str = template("report.html").render(
        title=f"CoMEL report: {len(reports)} runs side by side" if several else f"CoMEL report: {reports[0].name}",
        notice=NOTICE,
        several=several,
        together=[{"title": _all_of(entry), "blocks": over_the_runs(entry)} for entry in together],
        comparison=comparison(reports) if several else [],
        runs=[_run(report, shown) for report, shown in zip(reports, maps, strict=True)],
    )
    return text.encode("utf-8", "replace").decode("utf-8")


def _all_of(together: Together) -> str:
    return f"All {len(together.runs)} {together.kind}: {together.runs[0].parent.name}"


def _run(report: Report, maps: SlideMaps) -> dict[str, Any]:
    sections = {
        "Summary": scores.summary(report),
        "Scores after each task": scores.matrices(report),
        "Over the tasks": scores.curves(report),
        "Test cases": scores.test_cases(report),
        "Best and worst slides": _slides(maps),
        "Training": [*training.losses(report), *training.cost(report), *training.chosen(report)],
        "Strategy": training.strategy_report(report),
        "Data": provenance.data(report),
        "Settings": provenance.settings(report),
        "Software": provenance.software(report),
    }
    numbered = [{"number": n, "title": title, "blocks": blocks} for n, (title, blocks) in enumerate(sections.items(), start=1)]
    return {"name": report.name, "about": _about(report), "sections": numbered}


def _about(report: Report) -> list[Block]:
    """The run in one line, and whether it is finished."""
    model, tasks = str(report.section("model").get("name", "?")), ", ".join(report.metrics.tasks) or "no task yet"
    version = f"version {report.newest.version}, " if report.newest else ""
    line = f"{version}model {model}, strategy {report.strategy or '?'}, {report.mode}, learned: {tasks}. {report.path}"
    about: list[Block] = [Text(line, "about")]
    if not report.metrics.finished:
        done, planned = len(report.metrics.stages), report.stages_planned
        of = f" of {planned}" if planned is not None and planned >= done else ""
        about.append(Text(f"This run is not finished: {done}{of} stages are done.", "warning"))
    return about


def _slides(maps: SlideMaps) -> list[Block]:
    if not maps.best and not maps.worst:
        return [Text("There are no predictions of test cases.")]
    blocks: list[Block] = [
        note(
            "By the probability of the true class, the task not given.",
            "Tile scores are on one scale from 0 to 1 on every slide; tiles from the instance threshold on are outlined.",
        )
    ]
    blocks += [Text(maps.reason)] if maps.reason else []
    for name, entries in (("Worst", maps.worst), ("Best", maps.best)):
        if entries:
            blocks += [Heading(name), Slides(entries, brief=bool(maps.reason))]
    return blocks
