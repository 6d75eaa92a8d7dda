"""The page: one HTML file that needs no other, no network and no script."""

from __future__ import annotations

from collections.abc import Sequence

from comel.prediction.prediction import NOTICE
from comel.reporting import provenance, scores, training
from comel.reporting.collect import Report
from comel.reporting.compare import comparison
from comel.reporting.markup import Markup, join, tag
from comel.reporting.slides import SlideMap, SlideMaps
from comel.reporting.style import STYLE
from comel.reporting.together import Together, over_the_runs

__all__ = ["page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(reports: Sequence[Report], maps: Sequence[SlideMaps], together: Sequence[Together] = ()) -> str:
    """The whole page of one or several runs; ``maps`` are the slides of each, ``together`` the folds or orders they are of."""
    title = f"CoMEL report: {reports[0].name}" if len(reports) == 1 else f"CoMEL report: {len(reports)} runs side by side"
    several = len(reports) > 1
    body: list[Markup] = [tag("h1", title), tag("p", NOTICE, class_="notice")]
    if several:
        links = [tag("li", tag("a", _all_of(entry), href=f"#together-{i}")) for i, entry in enumerate(together, start=1)]
        links += [tag("li", tag("a", "Side by side", href="#comparison"))]
        links += [tag("li", tag("a", report.name, href=f"#run-{index}")) for index, report in enumerate(reports, start=1)]
        body.append(tag("nav", tag("ul", *links)))
        for i, entry in enumerate(together, start=1):
            body.append(tag("section", tag("h2", _all_of(entry)), over_the_runs(entry), id=f"together-{i}"))
        body.append(tag("section", tag("h2", "Side by side"), comparison(reports), id="comparison"))
    for index, (report, shown) in enumerate(zip(reports, maps, strict=True), start=1):
        body.append(_run(report, shown, f"run-{index}", titled=several))
    body.append(tag("footer", tag("p", NOTICE, class_="note")))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    text = f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def _all_of(together: Together) -> str:
    return f"All {len(together.runs)} {together.kind}: {together.runs[0].parent.name}"


def _run(report: Report, maps: SlideMaps, place: str, *, titled: bool) -> Markup:
    sections = [
        ("Summary", scores.summary(report)),
        ("Scores after each task", scores.matrices(report)),
        ("Over the tasks", scores.curves(report)),
        ("Test cases", scores.test_cases(report)),
        ("Best and worst slides", _slides(maps)),
        ("Training", join([training.losses(report), training.cost(report), training.chosen(report)])),
        ("Strategy", training.strategy_report(report)),
        ("Data", provenance.data(report)),
        ("Settings", provenance.settings(report)),
        ("Software", provenance.software(report)),
    ]
    present = [(number, name, content) for number, (name, content) in enumerate(sections, start=1) if content is not None]
    links = (tag("li", tag("a", name, href=f"#{place}-{number}")) for number, name, _ in present)
    parts: list[Markup | None] = [tag("h2", report.name) if titled else None, _about(report), tag("nav", tag("ul", *links))]
    parts += [tag("section", tag("h3", name), content, id=f"{place}-{number}") for number, name, content in present]
    return tag("section", *parts, id=place, class_="run" if titled else None)


def _about(report: Report) -> Markup:
    """What the run is in a line, and whether it is finished."""
    model, tasks = str(report.section("model").get("name", "?")), ", ".join(report.metrics.tasks) or "no task yet"
    version = f"version {report.newest.version}, " if report.newest else ""
    line = f"{version}model {model}, strategy {report.strategy or '?'}, {report.mode}, learned: {tasks}. {report.path}"
    parts = [tag("p", line, class_="about")]
    if not report.metrics.finished:
        done, planned = len(report.metrics.stages), report.stages_planned
        of = f" of {planned}" if planned is not None and planned >= done else ""
        parts.append(tag("p", f"This run is not finished: {done}{of} stages are done.", class_="warning"))
    return join(parts)


def _slides(maps: SlideMaps) -> Markup:
    if not maps.best and not maps.worst:
        return tag("p", "There are no predictions of test cases.")
    note = "By the probability of the true class, the task not given. Tile scores are on one scale from 0 to 1 on every slide; "
    note += "tiles from the instance threshold on are outlined."
    parts = [tag("p", note, class_="note"), tag("p", maps.reason) if maps.reason else None]
    for name, entries in (("Worst", maps.worst), ("Best", maps.best)):
        if entries:
            parts += [
                tag("h4", name),
                tag("div", *(_slide(entry, brief=bool(maps.reason)) for entry in entries), class_="maps"),
            ]
    return join(parts)


def _slide(entry: SlideMap, *, brief: bool) -> Markup:
    words = f"true {entry.truth} ({entry.probability:.3f}), predicted {entry.predicted}"
    words += ", unlike all that was learned" if entry.strange else ""
    caption = tag("figcaption", tag("b", entry.case), tag("br"), words)
    if entry.picture is None:
        return tag("figure", caption, None if brief else tag("p", f"No map: {entry.reason}", class_="note"))
    return tag("figure", tag("img", src=entry.address, alt=f"Map of the tile scores of {entry.case}"), caption)
