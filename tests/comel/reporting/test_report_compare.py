"""Several runs on one page, the model card, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from comel.app.commands.report import report
from comel.base.units import Mode
from comel.prediction.prediction import NOTICE
from comel.reporting.write import write_report
from comel.runs.metrics import ScoreRow
from tests.comel.reporting.pages import Page, change_scores, copy_of, without_intervals
from tests.comel.toys import Stream, scores_of


@pytest.fixture
def two_runs(toy_run: Path, tmp_path: Path) -> list[Path]:
    """The toy run, and one that has the same name elsewhere and other scores."""
    runs = [copy_of(toy_run, tmp_path / folder / "owlora") for folder in ("first", "second")]
    for run, colon, kidney in zip(runs, (1.0, 0.5), (0.7508, 0.75), strict=True):
        values = {(0, "colon"): max(colon, 0.75), (1, "colon"): colon, (1, "kidney"): kidney}

        def of_accuracy(row: ScoreRow, values: dict[Any, float] = values) -> ScoreRow | None:
            if row.key == ("bag", Mode.CLASS, "accuracy") and (row.stage, row.task) in values:
                row = row._replace(value=values[row.stage, row.task])
            return without_intervals(row)

        change_scores(run, of_accuracy)
    return runs


def test_runs_are_compared_side_by_side(two_runs: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(two_runs, tmp_path / "all.html", quiet=True))
    first = page.tables[0]
    assert first["caption"] == "Bag scores, class-incremental"
    assert first["rows"][0][:3] == ["run", "accuracy, final average", "accuracy, forgetting"]
    assert [row[:3] for row in first["rows"][1:]] == [["first/owlora", "0.875", "0.000"], ["second/owlora", "0.625", "0.250"]]
    assert page.emphasised == ["0.875", "0.000", "0.000"], "the average, forgetting and backward transfer"
    assert {"#comparison", "#run-1", "#run-2"} <= set(page.attributes("href"))
    assert not [words for words in page.attributes("class") if words == "warning" and "different" in page.text]


def test_scores_of_different_tests_are_not_ranked(two_runs: list[Path], tmp_path: Path) -> None:
    path = two_runs[1] / "versions" / "002" / "model.json"
    info = json.loads(path.read_text())
    info["tasks"][0]["slides"]["test"].pop()
    path.write_text(json.dumps(info))
    page = Page(write_report(two_runs, tmp_path / "all.html", quiet=True))
    assert "The runs were tested on different slides." in page.text
    assert page.emphasised == []


def test_a_run_named_twice_is_one_run(toy_run: Path, tmp_path: Path) -> None:
    page = Page(write_report([toy_run, toy_run / "..", toy_run][::2], tmp_path / "all.html", quiet=True))
    assert "side by side" not in page.text


def test_the_card_says_what_the_run_holds(toy_run: Path, toy_stream: Stream, tmp_path: Path) -> None:
    write_report(toy_run, tmp_path / "report.html", quiet=True)
    card = (tmp_path / "model_card.md").read_text()
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# Model card: owlora", "## Model", "## Intended use", "## Data", "## Scores", "## Limitations", "## Training",
        "## Versions and checksums",
    ]  # fmt: skip
    assert NOTICE in card
    tumours = [len(toy_stream.slides(task="colon", label="tumour", split=split)) for split in ("train", "val", "test")]
    assert f"| colon | tumour | {' | '.join(f'{n} / {n}' for n in tumours)} |" in card
    accuracy = scores_of(toy_run)["continual"]["bag"]["class_incremental"]["accuracy"]["final_average"]
    assert f"| class-incremental accuracy | {accuracy:.3f} |" in card
    tested = sum(tumours[2:]) + len(toy_stream.slides(task="colon", label="normal", split="test"))
    assert f"colon was tested on {tested} cases only" in card
    checksums = json.loads((toy_run / "versions" / "002" / "checksums.json").read_text())
    assert checksums["model.safetensors"] in card


def test_the_command_writes_beside_the_run(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of(toy_run, tmp_path / "one")
    app = typer.Typer()
    app.command()(report)
    done = CliRunner().invoke(app, [str(run), "-q"])
    assert (done.exit_code, done.stdout) == (0, f"report: {run}/report.html; model card: {run}/model_card.md\n")
    other = copy_of(toy_run, tmp_path / "two")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = CliRunner().invoke(app, [str(run), str(other), "--json"])
    assert {Path(path).name for path in json.loads(done.stdout).values()} == {"report.html", "model_card.md"}
    assert (tmp_path / "here" / "model_card.md").read_text().count("# Model card: ") == 2
    assert not (other / "report.html").exists()
