"""Splits and folds: no patient twice, every class trained on, sites kept together where that is possible."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from comel.cohort.manifest import ManifestRow
from comel.cohort.splits import assign_folds, assign_splits, split_by_fold
from comel.errors import ComelError


def row(number: int, *, label: str = "x", task: str = "t", **known: object) -> ManifestRow:
    return ManifestRow(number + 2, f"s{number:03}", Path(f"/s{number}.svs"), label, task, **known)  # type: ignore[arg-type]


def classes(rows: list[ManifestRow], split_of: dict[str, str], split: str) -> set[tuple[str, str]]:
    return {(row.task, row.label) for row in rows if split_of[row.slide_id] == split}


@st.composite
def cohorts(draw: st.DrawFn) -> list[ManifestRow]:
    """Patients with slides of any class, each class with at least two slides; some rows with a site or a split."""
    sites = draw(st.booleans())
    rows = []
    for number in range(draw(st.integers(2, 30))):
        patient = f"p{draw(st.integers(0, 14))}"
        rows.append(
            row(
                number,
                label=draw(st.sampled_from("xyz")),
                task=draw(st.sampled_from("tu")),
                patient_id=patient,
                site=draw(st.sampled_from([None, "A", "B", "C", "D"])) if sites else None,
            )
        )
    given_split = {
        patient: draw(st.sampled_from([None, None, None, "train", "val", "test"])) for patient in {r.patient for r in rows}
    }
    return [dataclasses.replace(row, split=given_split[row.patient]) for row in rows]


@settings(max_examples=150, deadline=None)
@given(cohorts(), st.integers(0, 5), st.randoms())
def test_splits_share_no_patient_and_train_has_every_class(rows: list[ManifestRow], seed: int, random: object) -> None:
    trainable = {(row.task, row.label) for row in rows if row.split in (None, "train")}
    if trainable != {(row.task, row.label) for row in rows}:
        with pytest.raises(ComelError, match="no patient left for train"):
            assign_splits(rows, seed=seed)
        return
    split_of = assign_splits(rows, seed=seed)
    assert set(split_of) == {row.slide_id for row in rows}
    where = defaultdict(set)
    for one in rows:
        where[one.patient].add(split_of[one.slide_id])
        assert one.split in (None, split_of[one.slide_id])
    assert all(len(splits) == 1 for splits in where.values())
    assert classes(rows, split_of, "train") == trainable
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_splits(shuffled, seed=seed) == split_of


# Small cohorts often have too few patients for the folds.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(cohorts(), st.integers(2, 5), st.integers(0, 3))
def test_folds_share_no_patient_and_each_trains_on_every_class(rows: list[ManifestRow], folds: int, seed: int) -> None:
    try:
        fold_of = assign_folds(rows, folds=folds, seed=seed)
    except ComelError:
        assume(False)
    rows = [dataclasses.replace(row, fold=fold_of[row.slide_id]) for row in rows]
    assert set(fold_of.values()) == set(range(folds))
    for fold in range(folds):
        split_of = split_by_fold(rows, fold, seed=seed)
        assert {row.slide_id for row in rows if row.fold == fold} == {
            slide for slide, split in split_of.items() if split == "test"
        }
        assert classes(rows, split_of, "train") == {(row.task, row.label) for row in rows}
        patients = [{row.patient for row in rows if split_of[row.slide_id] == split} for split in ("train", "val", "test")]
        assert sum(map(len, patients)) == len(set.union(*patients))


def test_fractions_hold_in_every_class() -> None:
    rows = [row(number, label="xy"[number % 4 == 0], task="tu"[number % 2]) for number in range(400)]
    split_of = assign_splits(rows, val_fraction=0.1, test_fraction=0.3)
    for (task, label), cases in Counter((row.task, row.label) for row in rows).items():
        got = Counter(split_of[row.slide_id] for row in rows if (row.task, row.label) == (task, label))
        assert got == {"train": 0.6 * cases, "val": 0.1 * cases, "test": 0.3 * cases}
    assert assign_splits(rows, seed=1) != assign_splits(rows, seed=2)
    assert set(assign_splits(rows, test_fraction=0).values()) == {"train", "val"}


@pytest.mark.parametrize(("patients", "splits"), [(1, {"train"}), (2, {"train", "test"}), (3, {"train", "test", "val"})])
def test_few_patients_go_to_train_then_test_then_val(patients: int, splits: set[str]) -> None:
    assert set(assign_splits([row(number) for number in range(patients)]).values()) == splits


def test_cases_count_not_slides() -> None:
    many = [row(number, case_id="big") for number in range(50)]
    rows = [*many, *(row(50 + number) for number in range(19))]
    split_of = assign_splits(rows, val_fraction=0, test_fraction=0.5)
    cases = {row.case: split_of[row.slide_id] for row in rows}
    assert Counter(cases.values()) == {"train": 10, "test": 10}


def test_sites_stay_together_where_there_are_enough() -> None:
    rows = [row(number, label="xy"[number % 2], site=f"h{number // 4}") for number in range(48)]
    split_of = assign_splits(rows)
    assert all(len({split_of[row.slide_id] for row in rows if row.site == site}) == 1 for site in {row.site for row in rows})
    assert set(split_of.values()) == {"train", "val", "test"}
    folds = assign_folds(rows, folds=4)
    assert all(len({folds[row.slide_id] for row in rows if row.site == site}) == 1 for site in {row.site for row in rows})


def test_too_few_sites_are_dealt_out_by_patient() -> None:
    rows = [row(number, label="xy"[number % 2], site="h1" if number < 20 else "h2") for number in range(40)]
    split_of = assign_splits(rows)
    for split in ("train", "val", "test"):
        assert classes(rows, split_of, split) == {("t", "x"), ("t", "y")}


def test_a_site_that_is_spread_already_is_dealt_out_by_patient() -> None:
    rows = [row(number, site=f"h{number % 4}", split={0: "train", 4: "test"}.get(number)) for number in range(40)]
    split_of = assign_splits(rows)
    assert (split_of["s000"], split_of["s004"]) == ("train", "test")
    assert Counter(split_of.values())["train"] == 24


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(0, split="test"), row(1, split="val")], "class 'x' of task 't' has no patient left for train: all 2"),
        ([row(0, patient_id="p", split="test"), row(1, patient_id="p", split="val")], "patient p is in test and val"),
        (
            [row(0, patient_id="p", split="test"), row(1, patient_id="p", split="val"), row(2, task="u", site="A")],
            "patient p is in test and val",
        ),
    ],
)
def test_splits_that_cannot_be_made(rows: list[ManifestRow], said: str) -> None:
    with pytest.raises(ComelError, match=said):
        assign_splits(rows)


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1)])
def test_fractions_that_leave_no_train(val: float, test: float) -> None:
    with pytest.raises(ComelError, match="under 1"):
        assign_splits([row(0)], val_fraction=val, test_fraction=test)


def test_folds_that_cannot_be_made() -> None:
    rows = [row(number, label="xy"[number > 3]) for number in range(5)]
    with pytest.raises(ComelError, match="class 'y' of task 't' has only one patient"):
        assign_folds(rows, folds=2)
    with pytest.raises(ComelError, match="give at most 4 folds"):
        assign_folds(rows[:4], folds=5)
    with pytest.raises(ComelError, match="at least 2"):
        assign_folds(rows, folds=1)
    with pytest.raises(ComelError, match="5 slides have no fold"):
        split_by_fold(rows, 0)
    folded = [dataclasses.replace(row, fold=row.label == "y") for row in rows]
    with pytest.raises(ComelError, match="class 'y' of task 't' is only in fold 1"):
        split_by_fold(folded, 1)
    with pytest.raises(ComelError, match="no slide is in fold 7"):
        split_by_fold(folded, 7)
    with pytest.raises(ComelError, match="patient p is in fold 0 and in another"):
        split_by_fold([row(0, patient_id="p", fold=0), row(1, patient_id="p", fold=1)], 0)
