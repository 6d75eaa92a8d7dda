"""What the tests of reports share: a page taken apart by an HTML parser, and runs that may be spoilt."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from comel.runs.metrics import RunMetrics, ScoreRow, read_metrics, write_metrics

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page's elements, text and tables; an element that is not closed where it should be is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self.figures: list[str] = []
        self.emphasised: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice"
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th"):
            self.tables[-1]["rows"][-1].append("")
        elif tag == "figure":
            self.figures.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1]["rows"][-1][-1] += data
        if "figure" in self.open:
            self.figures[-1] += data
        if "strong" in self.open:
            self.emphasised.append(data)

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute, whatever element has it."""
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]

    def names(self) -> set[str]:
        """Names of the elements."""
        return {name for name, _ in self.elements}

    def table(self, caption: str) -> list[list[str]]:
        """The rows of the one table with this caption; the first is its head."""
        found: list[dict[str, Any]] = [table for table in self.tables if table["caption"] == caption]
        assert len(found) == 1, f"{len(found)} tables are called {caption!r}"
        rows: list[list[str]] = found[0]["rows"]
        return rows


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a run that may be changed."""
    return Path(shutil.copytree(run, folder))


def change_metrics(run: Path, **values: Any) -> None:
    """Write values into ``metrics.json``."""
    metrics = read_metrics(run / "metrics.json")
    write_metrics(run / "metrics.json", RunMetrics.model_validate(metrics.model_dump() | values))


def change_scores(run: Path, change: Callable[[ScoreRow], ScoreRow | None]) -> None:
    """Put another row, or none, in place of each of the table's."""
    rows = read_metrics(run / "metrics.json").scores
    change_metrics(run, scores=[found for row in rows if (found := change(row)) is not None])


def without_intervals(row: ScoreRow) -> ScoreRow | None:
    """The rows of a run that has none."""
    return None if row.task is None else row._replace(low=None, high=None)


def newest_table(run: Path) -> Path:
    """The newest table of test cases."""
    return sorted((run / "evaluations").glob("*.csv"))[-1]


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV's rows."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as CSV."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
