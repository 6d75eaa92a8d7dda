"""``metrics.json``: its rows come back, format 1 is read as rows, and what cannot be read is said in one line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.base.units import Mode
from comel.errors import RunError
from comel.runs.metrics import CHANCE, RunMetrics, ScoreRow, StageAccount, read_metrics, write_metrics

TASKS = ["a", 'b, "c"']
STAGES = [StageAccount(version=1, learned=["a"], seconds=1.5), StageAccount(version=2, learned=TASKS[1:], old_data_bytes=0)]
NUMBER = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
ROW = st.builds(
    ScoreRow,
    st.integers(CHANCE, 1),
    st.sampled_from([*TASKS, None]),
    st.sampled_from(["bag", "instance"]),
    st.sampled_from(Mode),
    st.text(),
    NUMBER,
    NUMBER,
    NUMBER,
)
OLD: dict[str, Any] = {
    "mode": "domain-incremental",
    "strategy": "finetune",
    "finished": True,
    "tasks": TASKS,
    "stages": [{"version": 1, "learned": ["a"], "seconds": 1.5}, {"version": 2, "learned": TASKS[1:]}],
    "thresholds": {"a": 0.5},
    "temperatures": {"a": 1.25},
    "matrices": {"bag": {"domain_incremental": {"auc": [[0.5, None], [0.625, 0.75]]}}, "instance": {}},
    "chance": {"bag": {"domain_incremental": {"auc": [0.375]}}},
    "continual": {"bag": {"domain_incremental": {"auc": {"final_average": 0.6875, "forgetting": 0.0}}}},
    "intervals": {"bag": {"domain_incremental": {"auc": {"mean": [0.5, 1.0], "tasks": {"a": [0.25, 0.75], TASKS[1]: None}}}}},
}
"""What comel 0.1.0 wrote, in short."""


def a_run(**values: Any) -> RunMetrics:
    return RunMetrics(**{"mode": Mode.CLASS, "strategy": "er", "tasks": TASKS, "stages": STAGES} | values)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=5))
def test_what_is_written_is_read(rows: list[ScoreRow], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.json"
    metrics = a_run(scores=rows, finished=True, thresholds={"a": 0.5}, temperatures={"a": 2.0})
    write_metrics(path, metrics)
    assert read_metrics(path) == metrics


def test_the_file_is_a_table_for_others_too(tmp_path: Path) -> None:
    rows = [ScoreRow(0, "a", "bag", Mode.CLASS, "auc", 0.5, 0.25, 0.75), ScoreRow(1, None, "bag", Mode.TASK, "auc", None)]
    write_metrics(tmp_path / "metrics.json", a_run(scores=rows))
    text = (tmp_path / "metrics.json").read_text()
    assert '\n    [0, "a", "bag", "class-incremental", "auc", 0.5, 0.25, 0.75],\n' in text
    content = json.loads(text)
    assert content["format"] == 2
    table = pandas.DataFrame(content["scores"], columns=content["columns"])
    assert table.query("stage == 0 and name == 'auc'")["value"].item() == 0.5
    assert list(table["mode"]) == ["class-incremental", "task-incremental"]


def test_a_run_that_has_ended_no_stage_is_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.json") == RunMetrics()
    (tmp_path / "metrics.json").write_text("{}")
    assert read_metrics(tmp_path / "metrics.json") == RunMetrics()
    assert not RunMetrics().finished


def old_file(folder: Path, **changed: Any) -> Path:
    path = folder / "metrics.json"
    path.write_text(json.dumps(OLD | changed))
    return path


def test_format_1_becomes_rows(tmp_path: Path) -> None:
    found = read_metrics(old_file(tmp_path))
    a, b, place = TASKS[0], TASKS[1], ("bag", Mode.DOMAIN, "auc")
    assert found.scores == [
        ScoreRow(CHANCE, a, *place, 0.375),
        ScoreRow(0, a, *place, 0.5),
        ScoreRow(0, b, *place, None),
        ScoreRow(1, a, *place, 0.625, 0.25, 0.75),
        ScoreRow(1, b, *place, 0.75),
        ScoreRow(1, None, *place, 0.6875, 0.5, 1.0),
    ]
    assert (found.mode, found.strategy, found.finished, found.tasks) == (Mode.DOMAIN, "finetune", True, TASKS)
    assert found.learned_at == {a: 0, b: 1}
    assert [stage.seconds for stage in found.stages] == [1.5, None]
    write_metrics(tmp_path / "again.json", found)
    assert read_metrics(tmp_path / "again.json") == found


def test_format_1_of_an_unfinished_run(tmp_path: Path) -> None:
    found = read_metrics(old_file(tmp_path, intervals=None, chance=None, continual={}, finished=False))
    assert [row.stage for row in found.scores] == [0, 0, 1, 1]
    assert {row.interval for row in found.scores} == {None}


def nest(entry: Any) -> dict[str, Any]:
    return {"bag": {"domain_incremental": {"auc": entry}}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 3, "comel_version": "0.3.0"}, "written by comel 0.3.0, format 3; this is comel "),
        ({"format": 10**9, "scores": "of another kind"}, "written by comel "),
        ({"format": 0}, "damaged (format 0)"),
        ({"format": "2"}, "damaged (format 2)"),
        ({"format": None}, "damaged (format None)"),
        ({"format": 2}, "damaged (not laid out as comel writes it)"),
        ({"format": 2, "columns": ["stage", "value"]}, "damaged (the columns are not stage, task, kind, mode, name, value, "),
        ({"matrices": nest([[0.5, None]])}, "damaged (the matrix of bag domain-incremental auc does not have 2 rows of 2)"),
        ({"matrices": nest([[0.5], [0.5]])}, "does not have 2 rows of 2)"),
        ({"matrices": nest([[0.5, "x"], [0.5, 0.5]])}, "damaged (scores.2.5: Input should be a valid number"),
        ({"matrices": {"bag": {"sideways": {"auc": [[0, 0], [0, 0]]}}}}, "damaged (scores."),
        ({"matrices": {"bag": 3}}, "damaged (not laid out"),
        ({"matrices": [1]}, "damaged (not laid out"),
        ({"intervals": nest({"mean": 3})}, "damaged (not laid out"),
        ({"stages": 3}, "damaged"),
        ({"tasks": "ab"}, "damaged (tasks: "),
        ({"strategy": 4}, "damaged (strategy: "),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as caught:
        read_metrics(old_file(tmp_path, **changed))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'metrics.json'}: ")
    assert said in message
    assert "\n" not in message
    assert ("update comel" in message) == ("written by" in message) == ("damaged" not in message)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            [2, "a", "bag", "class-incremental", "auc", 0.5, None, None],
            "row 0 of scores names a stage or task that the run does not have",
        ),
        ([-2, "a", "bag", "class-incremental", "auc", 0.5, None, None], "row 0 of scores names a stage"),
        ([0, "z", "bag", "class-incremental", "auc", 0.5, None, None], "row 0 of scores names a stage or task"),
        ([0, "a", "bag", "class_incremental", "auc", 0.5, None, None], "scores.0.3: Input should be 'class-incremental', "),
        ([0, "a", "bag", "class-incremental", "auc", float("nan"), None, None], "NaN is not a number"),
        ([0, "a", "bag", "class-incremental", "auc", 0.5, None, None, 1], "scores.0: NamedTuple should have at most 8 items"),
        ([0, "a", "bag"], "scores.0.3: Field required"),
        ({"stage": 0}, "scores.0."),
        (3, "scores.0: "),
    ],
)
def test_rows_that_are_none(tmp_path: Path, row: Any, said: str) -> None:
    write_metrics(tmp_path / "metrics.json", a_run())
    content = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "metrics.json").write_text(json.dumps(content | {"scores": [row]}))
    with pytest.raises(RunError) as caught:
        read_metrics(tmp_path / "metrics.json")
    assert f"damaged ({said}" in str(caught.value)


SOMETHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), old=st.booleans())
def test_a_spoilt_file_is_read_or_refused(data: st.DataObject, old: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Something else in place of any value of a file of either format."""
    folder = tmp_path_factory.mktemp("spoilt")
    path = old_file(folder)
    if not old:
        write_metrics(path, read_metrics(path))
    content = place = json.loads(path.read_text())
    while True:
        key = data.draw(st.sampled_from([*place] if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(SOMETHING)
    path.write_text(json.dumps(content))
    with contextlib.suppress(RunError):
        assert isinstance(read_metrics(path), RunMetrics)
