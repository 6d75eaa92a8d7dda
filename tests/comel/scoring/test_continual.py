"""The table of scores: matrices, averages over a sequence of tasks, means, intervals, and nested answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.base.units import Mode
from comel.runs.metrics import CHANCE, RunMetrics, ScoreRow, StageAccount
from comel.scoring.continual import ScoreTable, nested, nested_run
from comel.scoring.metrics import continual_metrics

ACCURACY = ("bag", Mode.DOMAIN, "accuracy")
NUMBER = st.one_of(st.none(), st.floats(0, 1))
MATRIX = st.integers(1, 4).flatmap(lambda t: st.lists(st.lists(NUMBER, min_size=t, max_size=t), min_size=1, max_size=4))


def row(stage: int, task: str | None, value: float | None, kind: str = "bag", name: str = "accuracy") -> ScoreRow:
    return ScoreRow(stage, task, kind, Mode.DOMAIN, name, value)


def rows_of(stage: int, **values: float | None) -> list[ScoreRow]:
    return [row(stage, task, value) for task, value in values.items()]


def test_a_matrix_has_none_where_a_task_was_not_scored() -> None:
    table = ScoreTable([*rows_of(0, a=0.5), *rows_of(1, a=0.6, b=0.7), row(1, "b", 0.8, "patient"), *rows_of(2, c=0.9)])
    assert table.tasks == ["a", "b", "c"]
    assert table.matrix(*ACCURACY) == [[0.5, None, None], [0.6, 0.7, None], [None, None, 0.9]]
    assert table.matrix("patient", Mode.DOMAIN, "accuracy") == [[None] * 3, [None, 0.8, None], [None] * 3]
    assert table.matrix("bag", Mode.CLASS, "accuracy") == []
    assert table.groups == [("bag", Mode.DOMAIN), ("patient", Mode.DOMAIN)]
    assert (table.names("bag", Mode.DOMAIN), table.names("bag", Mode.TASK)) == (["accuracy"], [])


def test_kinds_come_together_whatever_the_order_of_the_rows() -> None:
    rows = [row(0, "a", 0.1, "bag", "auc"), row(0, "a", 0.2, "instance", "dice"), row(0, "b", 0.3, "bag", "f1")]
    assert [(kind, name) for kind, _, name in ScoreTable(rows).keys] == [("bag", "auc"), ("bag", "f1"), ("instance", "dice")]


@settings(max_examples=60, deadline=None)
@given(MATRIX)
def test_statistics_are_those_of_the_matrix(matrix: list[list[float | None]]) -> None:
    tasks = [f"task-{number}" for number in range(len(matrix[0]))]
    rows = [row(stage, task, value) for stage, values in enumerate(matrix) for task, value in zip(tasks, values, strict=True)]
    table = ScoreTable(reversed(rows), tasks)
    assert table.matrix(*ACCURACY) == matrix
    if len(matrix) in (1, len(tasks)):
        assert table.continual[ACCURACY] == continual_metrics(matrix)
        assert table.statistic(*ACCURACY, "forgetting") == continual_metrics(matrix)["forgetting"]
    else:
        assert table.continual[ACCURACY] is None
        assert table.statistic(*ACCURACY, "forgetting") is None
    known = [value for value in matrix[-1] if value is not None]
    assert table.mean == ({ACCURACY: pytest.approx(sum(known) / len(known))} if known else {})


def test_forward_transfer_is_against_chance_and_only_over_what_is_learned() -> None:
    chance = rows_of(CHANCE, a=0.5, b=0.5, c=0.5)
    first = rows_of(0, a=0.9, b=0.7, c=0.4)
    rows = [*chance, *first, *rows_of(1, a=0.8, b=0.9, c=0.6), *rows_of(2, a=0.8, b=0.9, c=0.9)]
    begun = ScoreTable([*chance, *first], learned=1)
    assert (begun.statistic(*ACCURACY, "final_average"), begun.statistic(*ACCURACY, "forward_transfer")) == (0.9, None)
    done = ScoreTable(rows, ["a", "b", "c"])
    assert done.statistic(*ACCURACY, "forward_transfer") == pytest.approx(((0.7 - 0.5) + (0.6 - 0.5)) / 2)
    assert ScoreTable(rows[3:]).statistic(*ACCURACY, "forward_transfer") is None
    assert done.chance(*ACCURACY) == [0.5, 0.5, 0.5]
    added = ScoreTable([*rows, *rows_of(3, d=0.9)], ["a", "b", "c", "d"])
    assert added.chance(*ACCURACY) == [0.5, 0.5, 0.5], "d was not known then"
    assert added.statistic(*ACCURACY, "forward_transfer") == done.statistic(*ACCURACY, "forward_transfer")
    assert added.chance("patient", Mode.DOMAIN, "accuracy") == ScoreTable(rows[3:]).chance(*ACCURACY) == []


def test_without_a_task_or_a_stage_nothing_is_defined() -> None:
    nothing = ScoreTable([])
    assert (nothing.continual, nothing.mean, nothing.nested_intervals()) == ({}, {}, {})
    assert ScoreTable([row(0, "a", 0.5)], learned=0).continual == {ACCURACY: None}
    assert nested_run(RunMetrics())["matrices"] == {}


def test_intervals_stand_in_the_rows_of_the_last_stage() -> None:
    table = ScoreTable([*rows_of(0, a=0.5), *rows_of(1, a=0.6, b=None), row(1, "a", 0.4, name="auc")])
    ends = {(ACCURACY, "a"): (0.5, 0.7), (ACCURACY, "b"): None, (ACCURACY, None): (0.1, 0.9)}
    assert not table.has_intervals
    found = table.with_intervals(ends, {ACCURACY: 0.6})
    assert found.has_intervals
    assert (found.interval(*ACCURACY, "a"), found.interval(*ACCURACY, "b"), found.interval(*ACCURACY)) == (
        (0.5, 0.7), None, (0.1, 0.9),
    )  # fmt: skip
    assert [entry.interval for entry in found.rows] == [None, (0.5, 0.7), None, None, (0.1, 0.9)]
    assert found.rows[-1][:6] == (1, None, *ACCURACY, 0.6)
    assert found.matrix(*ACCURACY) == table.matrix(*ACCURACY)
    assert found.nested_intervals() == {
        "bag": {"domain_incremental": {"accuracy": {"mean": (0.1, 0.9), "tasks": {"a": (0.5, 0.7), "b": None}}}}
    }


def test_a_mean_that_is_not_defined_has_no_interval() -> None:
    found = ScoreTable(rows_of(0, a=0.5)).with_intervals({(ACCURACY, None): (0.1, 0.9)}, {ACCURACY: None})
    assert found.rows[-1] == ScoreRow(0, None, *ACCURACY, None, None, None)


def test_the_nested_answer_is_of_the_last_stage() -> None:
    table = ScoreTable([*rows_of(0, a=0.1), *rows_of(1, a=0.5, b=0.7, c=None)])
    assert table.nested_scores({"a": 4, "b": 2, "c": 0}) == {
        "tasks": {
            "a": {"cases": 4, "domain_incremental": {"bag": {"accuracy": 0.5}}},
            "b": {"cases": 2, "domain_incremental": {"bag": {"accuracy": 0.7}}},
            "c": {"cases": 0, "domain_incremental": {"bag": {"accuracy": None}}},
        },
        "mean": {"domain_incremental": {"bag": {"accuracy": pytest.approx(0.6)}}},
        "intervals": {},
    }


def test_the_nested_run_has_a_column_for_every_task() -> None:
    stages = [StageAccount(version=1, learned=["a"]), StageAccount(version=2, learned=["b"])]
    rows = [*rows_of(CHANCE, a=0.5, b=0.4), *rows_of(0, a=0.9, b=0.6), *rows_of(1, b=0.8)]
    told = nested_run(RunMetrics(mode=Mode.DOMAIN, tasks=["a", "b"], stages=stages, scores=rows))
    assert told["matrices"] == {"bag": {"domain_incremental": {"accuracy": [[0.9, 0.6], [None, 0.8]]}}}
    assert told["chance"] == {"bag": {"domain_incremental": {"accuracy": [0.5, 0.4]}}}
    assert told["continual"]["bag"]["domain_incremental"]["accuracy"]["forward_transfer"] == pytest.approx(0.2)
    assert told["intervals"] is None


def test_nesting_keeps_the_order() -> None:
    assert nested([("b", 1, "x"), ("a", 2, "y"), ("b", 0, "z")]) == {"b": {1: "x", 0: "z"}, "a": {2: "y"}}
    assert [*nested([("b", 1), ("a", 2)])] == ["b", "a"]
