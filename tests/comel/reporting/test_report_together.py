"""A folder of folds or orders on one page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comel.errors import RunError
from comel.reporting.write import write_report
from comel.training.cross_validation import train_folds, train_orders
from tests.comel.reporting.pages import Page
from tests.comel.toys import FINETUNE, Stream


@pytest.fixture(scope="module")
def folds(toy_stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "five"
    train_folds(toy_stream.settings(FINETUNE, tasks=["colon", "kidney"], epochs=2), out, folds=2, quiet=True)
    return out


def tables_of(page: Page) -> dict[str, list[list[str]]]:
    return {table["caption"]: table["rows"] for table in page.tables}


def test_folds_have_a_page_of_their_mean_and_their_pooled_cases(folds: Path, toy_stream: Stream) -> None:
    written = write_report(folds, quiet=True)
    assert written == folds / "report.html"
    assert (folds / "model_card.md").is_file()
    page, summary = Page(written), json.loads((folds / "folds.json").read_text())
    tables = tables_of(page)
    header, *rows = tables["Bag scores, class-incremental: mean ± standard deviation over 2 folds"]
    assert header[:3] == ["score", "final average", "average over time"]
    entry = summary["continual"]["bag"]["class_incremental"]["accuracy"]["final_average"]
    assert rows[0][0] == "accuracy"
    assert rows[0][1] == f"{entry['mean']:.3f} ± {entry['spread']:.3f}"
    header, colon, kidney, mean = tables["Test cases of all folds together, class-incremental"]
    assert header[:3] == ["task", "cases", "accuracy"]
    slides = {task: len(toy_stream.slides(task=task)) for task in ("colon", "kidney")}
    assert (colon[:2], kidney[:2]) == (["colon", str(slides["colon"])], ["kidney", str(slides["kidney"])])
    pooled = summary["pooled"]
    assert mean[2].startswith(f"{pooled['mean']['class_incremental']['bag']['accuracy']:.3f} [")
    assert colon[2].startswith(f"{pooled['tasks']['colon']['class_incremental']['bag']['accuracy']:.3f} [")
    assert {"#together-1", "#comparison", "#run-1", "#run-2"} <= set(page.attributes("href"))
    assert "All 2 folds: five" in page.text


def test_orders_have_one_too_and_stand_beside_other_runs(toy_stream: Stream, toy_run: Path, tmp_path: Path) -> None:
    settings = toy_stream.settings(FINETUNE, tasks=["colon", "kidney"], epochs=1)
    train_orders(settings, tmp_path / "orders", orders=2, quiet=True)
    page = Page(write_report([tmp_path / "orders", toy_run], tmp_path / "all.html", quiet=True))
    assert "Bag scores, class-incremental: mean ± standard deviation over 2 orders" in tables_of(page)
    assert not [caption for caption in tables_of(page) if caption.startswith("Test cases of all folds")]
    assert {"#run-1", "#run-2", "#run-3"} <= set(page.attributes("href"))


def test_a_damaged_summary_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folds.json").write_text('{"runs": 3}')
    with pytest.raises(RunError, match=r"folds\.json: damaged \(TypeError\); give the same comel train command again"):
        write_report(tmp_path, quiet=True)
