"""Scores of a task's cases: patients, calibration error before and after, the table of cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comel.base.units import Mode
from comel.cohort.classes import ClassSpace, Head
from comel.cohort.tasks import Case
from comel.errors import RunError
from comel.runs.metrics import ScoreRow
from comel.runs.version import TaskInfo, VersionInfo, stored_contract
from comel.scoring.case_results import CaseResult, read_results, write_results
from comel.scoring.metrics import bag_metrics
from comel.scoring.task_scores import patient_level, score_task, views
from tests.comel.toys import CONTRACT

CLASSES = ClassSpace.of([Head("colon", ("normal", "polyp", "tumour"), "normal"), Head("lung", ("LUAD", "LUSC"), None)])
INFO = VersionInfo(
    version=1,
    run="r",
    created="",
    comel_version="",
    mode=Mode.CLASS,
    model={
        "name": "comel",
        "dimension": CONTRACT.dimension,
        "options": {},
        "heads": [head.to_dict() for head in CLASSES.heads],
    },
    strategy={"name": "finetune"},
    tasks=[TaskInfo(name="colon", head=0, stage=0), TaskInfo(name="lung", head=1, stage=0)],
    stages=1,
    contract=stored_contract(CONTRACT),
)
FREE = views(Mode.DOMAIN)[Mode.DOMAIN]


def result(name: str, patient: str, label: str, probabilities: list[float], head: int = 0, **more: Any) -> CaseResult:
    column = CLASSES.column(head, label)
    columns = CLASSES.columns(head)
    within = np.zeros(len(CLASSES))
    within[columns] = np.array(probabilities)[columns] / np.array(probabilities)[columns].sum()
    task = CLASSES.heads[head].name
    case = Case(name, patient, label, (name,))
    more = {"classes": CLASSES, **more}
    return CaseResult(case, task, column, CLASSES.positive[column], np.array(probabilities), within, **more)


def scores_of(rows: list[ScoreRow], kind: str, mode: Mode) -> dict[str, float | None]:
    """The scores of a kind and mode by name."""
    return {row.name: row.value for row in rows if (row.kind, row.mode) == (kind, mode)}


def test_a_patient_is_positive_if_any_case_is_in_label_and_probability() -> None:
    results = [
        result("a1", "a", "normal", [0.8, 0.1, 0.1, 0, 0]),
        result("b1", "b", "normal", [0.6, 0.0, 0.4, 0, 0]),
        result("a2", "a", "normal", [0.4, 0.5, 0.1, 0, 0]),
        result("b2", "b", "tumour", [0.1, 0.0, 0.9, 0, 0]),
        result("c1", "c", "tumour", [0.2, 0.2, 0.6, 0, 0]),
        result("c2", "c", "polyp", [0.2, 0.2, 0.6, 0, 0]),
    ]
    table, columns = patient_level(results, FREE)
    assert columns.tolist() == [0, 2]  # c has two findings
    odds = np.array([[1, 5 / 4, 1 / 4, 0, 0], [1, 0, 9, 0, 0]])
    assert table == pytest.approx(odds / odds.sum(axis=1, keepdims=True))
    rows = score_task("colon", results, 0.5, Mode.CLASS, stage=3)
    assert {(row.stage, row.task) for row in rows} == {(3, "colon")}
    assert scores_of(rows, "patient", Mode.CLASS) == bag_metrics(table, columns)
    assert {row.kind for row in rows if row.mode == Mode.TASK} == {"bag", "instance", "patient"}


def test_without_a_negative_class_mixed_patients_are_left_out() -> None:
    mixed = [result("a", "p", "LUAD", [0, 0, 0, 0.5, 0.5], 1), result("b", "p", "LUSC", [0, 0, 0, 0.5, 0.5], 1)]
    table, columns = patient_level(mixed, FREE)
    assert (len(table), len(columns)) == (0, 0)
    assert set(scores_of(score_task("lung", mixed, 0.5, Mode.CLASS), "patient", Mode.CLASS).values()) == {None}


def test_results_that_do_not_say_their_classes_take_the_negative_cases_label_for_negative() -> None:
    known = [
        result("a", "p", "normal", [0.9, 0.1, 0, 0, 0]),
        result("b", "p", "polyp", [0.3, 0.7, 0, 0, 0]),
        result("c", "q", "normal", [0.6, 0.4, 0, 0, 0]),
    ]
    unknown = [replace(one, classes=None) for one in known]
    assert patient_level(unknown, FREE)[0] == pytest.approx(patient_level(known, FREE)[0])
    positive = [replace(one, positive=True) for one in unknown[1:]]
    assert patient_level(positive, FREE)[0] == pytest.approx(np.array([[0.3, 0.7, 0, 0, 0], [0.6, 0.4, 0, 0, 0]]))


def test_patients_of_one_case_each_are_left_out() -> None:
    single = [result(name, name, "normal", [0.8, 0.1, 0.1, 0, 0]) for name in "abc"]
    rows = score_task("colon", single, 0.5, Mode.DOMAIN)
    assert {(row.mode, row.kind) for row in rows} == {(Mode.DOMAIN, "bag"), (Mode.DOMAIN, "instance")}


def test_the_calibration_error_before_and_after() -> None:
    raw = np.array([1.0, 0, 0, 0, 0])
    results = [
        result(f"{i}", f"{i}", label, [0.75, 0.25, 0, 0, 0], raw_probabilities=raw, raw_within=raw)
        for i, label in enumerate(("normal", "normal", "normal", "polyp"))
    ]
    bag = scores_of(score_task("colon", results, 0.5, Mode.CLASS), "bag", Mode.TASK)
    assert (bag["ece"], bag["ece_uncalibrated"]) == pytest.approx((0, 0.25))
    unknown = [result("x", "x", "normal", [0.75, 0.25, 0, 0, 0])]
    for cases in (unknown, []):
        assert scores_of(score_task("colon", cases, 0.5, Mode.CLASS), "bag", Mode.CLASS)["ece_uncalibrated"] is None


def test_lesions_need_coordinates_of_every_labelled_case() -> None:
    coords = np.array([[0, 0], [256, 0], [512, 0]])
    known: dict[str, Any] = {"labels": np.array([1, 0, 0]), "scores": np.array([0.9, 0.1, 0.2])}
    there = result("a", "a", "tumour", [0.1, 0.1, 0.8, 0, 0], coords=coords, **known)
    without = result("b", "b", "tumour", [0.1, 0.1, 0.8, 0, 0], **known)
    unlabelled = result("c", "c", "tumour", [0.1, 0.1, 0.8, 0, 0])
    for cases, froc in (([there, unlabelled], 1.0), ([there, without], None), ([unlabelled], None)):
        assert scores_of(score_task("colon", cases, 0.5, Mode.DOMAIN), "instance", Mode.DOMAIN)["froc"] == froc


def test_the_table_of_cases_comes_back(tmp_path: Path) -> None:
    results = [
        result("007", "NA", "tumour", [0.1, 0.2, 0.3, 0.15, 0.25]),
        result("a, b", "", "LUSC", [1 / 3, 0.0, 0.0, 1 / 3, 1 / 3], 1),
    ]
    path = tmp_path / "cases.csv"
    results[0] = replace(results[0], distance=1 / 3)
    write_results(path, results, CLASSES.names, fold=[0, 1])
    again = read_results(path, INFO)
    for before, after in zip(results, again, strict=True):
        assert (after.case.name, after.case.patient, after.case.label) == (
            before.case.name, before.case.patient, before.case.label,
        )  # fmt: skip
        assert (after.task, after.column, after.positive) == (before.task, before.column, before.positive)
        assert after.probabilities.tolist() == before.probabilities.tolist()
        assert after.within.tolist() == before.within.tolist()
        assert after.distance == before.distance
    write_results(path, [], CLASSES.names)
    assert read_results(path, INFO) == []
    for content, said in (
        ("case_id,task\n1,colon\n", "no 'label'"),
        ("case_id,task\n1,skin\n", "no 'skin'"),
        ("case_id,patient_id,task,label\n1,1,colon,cyst\n", "task 'colon' has no label 'cyst'"),
        ("case_id,task\n1", "no None"),
    ):
        path.write_text(content)
        with pytest.raises(RunError, match=rf"cases\.csv: damaged \({said}"):
            read_results(path, INFO)
    with pytest.raises(RunError, match=r"none\.csv: damaged \(.*No such file"):
        read_results(tmp_path / "none.csv", INFO)
