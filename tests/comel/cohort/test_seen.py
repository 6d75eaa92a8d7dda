"""What a run has seen decides the splits of what comes later: by slide, by patient, over tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.cohort.manifest import Manifest, ManifestRow
from comel.cohort.seen import Place, Seen, following, patient_key, splits_to_evaluate
from comel.errors import ManifestError


def manifest(*rows: dict[str, Any]) -> Manifest:
    return Manifest(
        Path("m.csv"),
        [
            ManifestRow(number, row["slide_id"], Path(row["slide_id"]), "x", row.get("task", "t"), **rest(row))
            for number, row in enumerate(rows, start=2)
        ],
        "digest",
    )


def rest(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("slide_id", "task")}


def seen(**slides: list[str]) -> Seen:
    """Of a task named old; a slide p1-a is of patient p1."""
    known = Seen()
    patients = {split: [patient_key(name.split("-")[0]) for name in names] for split, names in slides.items()}
    known.add("old", slides, patients)
    return known


def splits(cohort: Manifest) -> list[str | None]:
    return [row.split for row in cohort.rows]


def test_rows_without_a_split_follow_the_run() -> None:
    """The same slide, another slide of a patient, a slide whose patient is known by a third one; a stranger does not."""
    known = seen(train=["p1-a"], val=["p2-a"], test=["p3-a"])
    rows = manifest(
        {"slide_id": "p1-a"},
        {"slide_id": "new", "patient_id": "p2"},
        {"slide_id": "p3-a", "patient_id": "another name"},
        {"slide_id": "third", "patient_id": "another name"},
        {"slide_id": "stranger"},
    )
    found, notes = following(rows, known)
    assert splits(found) == ["train", "val", "test", "test", None]
    assert found.digest == rows.digest
    assert notes == [
        "slides of patients that the run has seen stay in its splits: 1 in train, 1 in val, 2 in test",
        "slides are compared by name: slide p1-a is taken for the one of the run's task 'old'; "
        "if it is another, give it another slide_id, such as t-p1-a",
    ]
    assert following(manifest({"slide_id": "stranger"}), known)[1] == []


def test_another_split_is_refused() -> None:
    known = seen(train=["p1-a"], test=["p3-a", "p4-a"])
    rows = manifest(
        {"slide_id": "p1-a", "split": "train"},
        {"slide_id": "new", "patient_id": "p3", "split": "train"},
        {"slide_id": "p4-a", "split": "val"},
    )
    with pytest.raises(
        ManifestError,
        match=r"^m\.csv row 3 column split: slide new of patient p3 is train here and was test in the run's task 'old' "
        r"\(1 more rows like it\); patients are compared by name: patient p3 is taken for the one of the run's task 'old'; "
        r"leave these cells empty, so that the rows follow the run; "
        r"if it is another, give it another patient_id, such as t-p3$",
    ):
        following(rows, known)
    assert splits(following(manifest({"slide_id": "p1-a", "split": "train"}), known)[0]) == ["train"]


def test_rows_of_other_tasks_tell_whose_a_slide_is_and_are_not_judged() -> None:
    known = seen(test=["p3-a"])
    rows = manifest(
        {"slide_id": "p3-a", "patient_id": "who", "split": "train"},
        {"slide_id": "new", "patient_id": "who", "task": "late"},
    )
    assert splits(following(rows, known, ["late"])[0]) == ["train", "test"]
    with pytest.raises(ManifestError, match="slide p3-a of patient who is train here"):
        following(rows, known)


def test_patients_of_two_cohorts_that_are_called_alike_are_told_apart_by_another_name() -> None:
    """A hospital's patient 1 is not another hospital's: only the user knows, so the message says what it rests on."""
    known = Seen()
    known.add("colon", {"train": ["colon-a"]}, {"train": [patient_key("1")]})
    alike = manifest({"slide_id": "kidney-a", "patient_id": "1", "task": "kidney"})
    basis = (
        "patients are compared by name: patient 1 is taken for the one of the run's task 'colon'; "
        "if it is another, give it another patient_id, such as kidney-1"
    )
    assert following(alike, known)[1][-1] == basis
    assert splits_to_evaluate(alike, known)[1][-1] == basis
    other = manifest({"slide_id": "kidney-a", "patient_id": "kidney-1", "task": "kidney"})
    assert following(other, known) == (other, [])
    assert splits_to_evaluate(other, known) == ({"kidney-a": "test"}, [])


def test_what_was_trained_on_once_is_no_test_case() -> None:
    """A run that has had a slide in two tasks, as runs of version 0.1.0 may."""
    known = seen(test=["p1-a"])
    known.add("grade", {"train": ["p1-a"]}, {})
    rows = manifest({"slide_id": "p1-a", "task": "old"}, {"slide_id": "p1-a2", "patient_id": "p1-a", "task": "grade"})
    found, notes = splits_to_evaluate(rows, known)
    assert found == {"p1-a": "train", "p1-a2": "train"}
    assert notes == [
        "2 slides count as train, not as test, because the run has seen them or their patients there: p1-a, p1-a2",
        "slides are compared by name: slide p1-a is taken for the one of the run's task 'grade'; "
        "if it is another, give it another slide_id, such as old-p1-a",
    ]


def test_splits_of_an_evaluation() -> None:
    known = seen(train=["p1-a"], val=["p2-a"], test=["p3-a"])
    rows = manifest(
        {"slide_id": "p1-a", "task": "old"},
        {"slide_id": "p3-a", "task": "old", "split": "test"},
        {"slide_id": "p2-a", "task": "old", "split": "test"},
        {"slide_id": "p2-b", "task": "old", "patient_id": "p2"},
        {"slide_id": "p1-b", "task": "other", "patient_id": "p1", "split": "train"},
        {"slide_id": "stranger", "task": "old"},
        {"slide_id": "held back", "task": "old", "split": "val"},
    )
    found, notes = splits_to_evaluate(rows, known, ["old"])
    assert list(found.values()) == ["train", "test", "val", "val", "train", "test", "val"]
    assert notes == [
        "2 slides count as val, not as test, because the run has seen them or their patients there: p2-a, p2-b",
        "slides are compared by name: slide p2-a is taken for the one of the run's task 'old'; "
        "if it is another, give it another slide_id, such as old-p2-a",
    ]
    own = manifest({"slide_id": "p1-a", "task": "old"}, {"slide_id": "p3-a", "task": "old"})
    assert splits_to_evaluate(own, known) == ({"p1-a": "train", "p3-a": "test"}, [])


def test_a_patient_has_one_key_in_any_unicode_form() -> None:
    assert patient_key("Müller") == patient_key("Mu\u0308ller")
    assert patient_key("p1") != patient_key("p2")
    assert "p1" not in patient_key("p1")


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["train", "val", "test"])), max_size=12),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12, unique_by=lambda pair: pair[0]),
)
def test_no_patient_of_the_run_changes_its_split(before: list[tuple[int, str]], after: list[tuple[int, int]]) -> None:
    """Whichever slides and patients a manifest names, in whatever order."""
    split_of = {f"p{patient}": split for patient, split in before}
    known = Seen()
    for patient, split in split_of.items():
        known.add("old", {split: [f"{patient}-old"]}, {split: [patient_key(patient)]})
    rows = manifest(*({"slide_id": f"s{slide}", "patient_id": f"p{patient}"} for slide, patient in after))
    found, _ = following(rows, known)
    assert splits(found) == [split_of.get(row.patient) for row in rows.rows]
    evaluated, _ = splits_to_evaluate(rows, known)
    assert list(evaluated.values()) == [split_of.get(row.patient, "test") for row in rows.rows]
    assert [replace(row, split=None) for row in found.rows] == rows.rows


def test_the_first_of_the_splits_wins() -> None:
    known = seen(test=["p1-a"], train=["p1-b"])
    assert known.of_patients(manifest({"slide_id": "x", "patient_id": "p1"}).rows) == {"p1": Place("train", "old")}
