"""Intervals of all resamples at once against one resample at a time with the plain scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from comel.base.units import Mode
from comel.cohort.tasks import Case
from comel.scoring.case_results import CaseResult
from comel.scoring.intervals import score_intervals
from comel.scoring.metrics import bag_metrics, bootstrap_counts, instance_metrics, percentile_interval

THRESHOLDS = {"a": 0.4, "b": 0.6}
KINDS = (("bag", "accuracy"), ("bag", "auc"), ("instance", "auc"), ("instance", "dice"))


def random_results(tasks: str = "ab", patients: int = 9, cases: int = 14) -> dict[str, list[CaseResult]]:
    """Cases of three classes, some without instance labels, whose patients have several of them, in both tasks."""
    generator = np.random.default_rng(3)
    found: dict[str, list[CaseResult]] = {}
    for task in tasks:
        found[task] = []
        for i in range(cases):
            probabilities = generator.dirichlet(np.ones(3))
            within = generator.dirichlet(np.ones(3))
            labels = generator.integers(-1, 2, 12) if i % 3 else np.zeros(12, dtype=int)
            found[task].append(
                CaseResult(
                    case=Case(f"{task}{i}", f"p{generator.integers(patients)}", "x", ()),
                    task=task,
                    column=int(generator.integers(3)),
                    positive=True,
                    probabilities=probabilities,
                    within=within,
                    scores=generator.integers(0, 8, 12) / 8,
                    scores_given=generator.random(12),
                    labels=None if i % 5 == 4 else labels,
                )
            )
    return found


def plain_bootstrap(
    by_patient: Mapping[str, Sequence[Any]], statistic: Callable[[list[Any]], float | None], *, n: int, seed: int = 0
) -> tuple[float, float] | None:
    """The interval of a statistic, one resample of the patients after another."""
    patients, generator = sorted(by_patient), np.random.default_rng(seed)
    found = []
    for _ in range(n):
        drawn = generator.integers(len(patients), size=len(patients))
        score = statistic([value for index in drawn for value in by_patient[patients[index]]])
        found.append(np.nan if score is None else score)
    return percentile_interval(np.array(found, dtype=np.float64))


def plainly(cases: list[CaseResult], given: bool, threshold: float) -> dict[tuple[str, str], float | None]:
    table = np.array([case.within if given else case.probabilities for case in cases]).reshape(-1, 3)
    bag = bag_metrics(table, np.array([case.column for case in cases], dtype=int))
    known = [case for case in cases if case.labels is not None]
    scores = [case.scores_given if given else case.scores for case in known]
    instance = instance_metrics(scores, [case.labels for case in known], threshold=threshold)  # type: ignore[misc]
    return {(kind, name): (bag if kind == "bag" else instance)[name] for kind, name in KINDS}


@pytest.mark.parametrize("given", [pytest.param(False, marks=pytest.mark.slow), True])
def test_they_are_what_the_plain_bootstrap_gives(given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comel.scoring.intervals._RESAMPLES", 120)
    results = random_results()
    got = score_intervals(results, THRESHOLDS, Mode.CLASS)
    by_patient: dict[str, list[CaseResult]] = {}
    for case in (case for cases in results.values() for case in cases):
        by_patient.setdefault(case.case.patient, []).append(case)
    resampled: list[dict[str, dict[tuple[str, str], float | None]]] = []

    def keep(drawn: list[CaseResult]) -> float:
        resampled.append(
            {task: plainly([case for case in drawn if case.task == task], given, THRESHOLDS[task]) for task in results}
        )
        return 0.0

    plain_bootstrap(by_patient, keep, n=120)

    def ends(values: list[Any]) -> Any:
        return pytest.approx(np.quantile([value for value in values if value is not None], [0.025, 0.975]))

    for kind, name in KINDS:
        key = (kind, Mode.TASK if given else Mode.CLASS, name)
        for task in results:
            assert got[key, task] == ends([sample[task][kind, name] for sample in resampled])
        both = [[sample[task][kind, name] for task in results] for sample in resampled]
        defined = [[value for value in pair if value is not None] for pair in both]
        assert got[key, None] == ends([float(np.mean(pair)) if len(pair) == len(results) else None for pair in defined])


def test_the_resamples_are_those_of_the_plain_bootstrap() -> None:
    patients = ["q", "p", "q", "r", "p"]
    counts = bootstrap_counts(patients, n=50, seed=4)
    drawn: list[list[int]] = []
    by_patient = {name: [i for i, owner in enumerate(patients) if owner == name] for name in "pqr"}

    def keep(values: list[int]) -> float:
        drawn.append(values)
        return 0.0

    plain_bootstrap(by_patient, keep, n=50, seed=4)
    assert [np.bincount(values, minlength=5).tolist() for values in drawn] == counts.tolist()


def test_where_they_are_not_defined() -> None:
    alone = score_intervals(random_results(patients=1), THRESHOLDS, Mode.CLASS)
    empty = score_intervals({"a": [], "b": []}, THRESHOLDS, Mode.DOMAIN)
    for found, modes in ((alone, 2), (empty, 1)):
        assert len(found) == len(KINDS) * modes * 3
        assert set(found.values()) == {None}
    part = score_intervals({"a": random_results("a")["a"], "b": []}, THRESHOLDS, Mode.DOMAIN)
    accuracy = ("bag", Mode.DOMAIN, "accuracy")
    assert part[accuracy, "b"] is None
    assert part[accuracy, None] == part[accuracy, "a"] is not None


def test_many_scores_are_taken_in_steps() -> None:
    """Over 4096 different scores the AUC is of steps, and hardly differs."""
    generator = np.random.default_rng(0)
    cases = []
    for i in range(12):
        labels = generator.integers(0, 2, 1000)
        cases.append(
            CaseResult(
                Case(f"{i}", f"{i}", "x", ()), "a", i % 2, True, np.array([0.5, 0.5]), np.array([0.5, 0.5]),
                scores=generator.normal(size=1000) + labels, labels=labels,
            )
        )  # fmt: skip
    got = score_intervals({"a": cases}, {"a": 0.5}, Mode.DOMAIN)[("instance", Mode.DOMAIN, "auc"), None]
    exact = plain_bootstrap(
        {case.case.name: [case] for case in cases},
        lambda drawn: instance_metrics([c.scores for c in drawn], [c.labels for c in drawn])["auc"],
        n=200,
    )
    assert got == pytest.approx(exact, abs=0.01)
