"""What a stage adds to a run's ``metrics.json`` and ``evaluations/``: scores on every test set whose bags are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comel.base.files import read_json, write_json
from comel.cohort.bags import BagStore
from comel.cohort.tasks import TaskData
from comel.prediction.judge import Judge
from comel.runs.config import RunConfig
from comel.runs.directory import RunDirectory
from comel.runs.version import TaskInfo
from comel.scoring.case_results import CaseResult, write_results
from comel.scoring.evaluate import evaluate_cases
from comel.scoring.intervals import score_intervals
from comel.scoring.matrices import append_row, chance_row, continual, keep_rows, new_matrices
from comel.scoring.task_scores import score_task

__all__ = ["StageScorer"]


class StageScorer:
    """Scores the stages of a session and keeps the run's ``metrics.json``.

    Args:
        run: where results go.
        config: of the session.
        tasks: whose bags are here, in the order they arrive.
        store: reads the bags.
        untrained: looks with the model as the first stage finds it, whose scores are what chance gives; None if no stage of
            the session is the run's first.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        tasks: Sequence[TaskData],
        store: BagStore,
        untrained: Judge | None = None,
    ) -> None:
        self._run, self._mode, self._strategy = run, config.data.mode, config.strategy["name"]
        self._tasks = {task.name: task for task in tasks}
        self._store, self._untrained = store, untrained

    def record(self, judge: Judge, learned: Sequence[TaskInfo], account: dict[str, Any], *, last: bool) -> None:
        """Append a stage to the R matrices; tasks whose bags are no longer here stay None.

        In a domain-incremental run the tasks that are yet to come are scored too, with the newest task's threshold, and once
        by the untrained model.

        Args:
            judge: looks with the model after the stage, its temperatures and thresholds chosen.
            learned: all tasks learned so far.
            account: the stage's entry; ``version`` and ``learned`` are among it.
            last: whether the session ends with this stage: then intervals are computed.
        """
        version = account["version"]
        metrics: dict[str, Any] = {"stages": [], "matrices": new_matrices(), "chance": None}
        if self._run.metrics.exists():
            metrics |= read_json(self._run.metrics)
        metrics["stages"] = [entry for entry in metrics["stages"] if entry["version"] < version]
        keep_rows(metrics["matrices"], len(metrics["stages"]))
        ahead = self._ahead(learned)
        columns = [info.name for info in (*learned, *ahead)]
        here = [info for info in learned if info.name in self._tasks]
        results = {info.name: self._test(judge, info) for info in here}
        thresholds = {info.name: info.threshold for info in learned}
        scored = {name: score_task(cases, thresholds[name], self._mode) for name, cases in results.items()}
        for info in ahead:
            scored[info.name] = score_task(self._test(judge, info), info.threshold, self._mode)
        if ahead and not metrics["stages"] and self._untrained is not None:
            metrics["chance"] = self._chance(self._untrained, [*learned, *ahead])
        append_row(metrics["matrices"], columns, scored)
        metrics["stages"].append(account)
        metrics |= {
            "mode": self._mode,
            "strategy": self._strategy,
            "tasks": columns,
            "thresholds": thresholds,
            "temperatures": {info.name: info.temperature for info in learned},
            "continual": continual(metrics["matrices"], len(learned), metrics["chance"]),
            "finished": False,
        }
        metrics["intervals"] = None
        if last:
            metrics["intervals"] = score_intervals(results, thresholds, self._mode)
            _drop_means_of_a_part(metrics)
        everything = [result for cases in results.values() for result in cases]
        write_results(self._run.path / "evaluations" / f"{version:03d}.csv", everything, judge.classes.names)
        write_json(self._run.metrics, metrics)

    def finish(self) -> None:
        """Say in ``metrics.json`` that all stages are done."""
        metrics = read_json(self._run.metrics)
        metrics["finished"] = True
        write_json(self._run.metrics, metrics)

    def _ahead(self, learned: Sequence[TaskInfo]) -> list[TaskInfo]:
        """The tasks to come that the one head of a domain-incremental run can judge already."""
        if self._mode != "domain-incremental":
            return []
        known, newest = {info.name for info in learned}, learned[-1]
        return [
            TaskInfo(name=name, head=newest.head, stage=newest.stage + 1, threshold=newest.threshold)
            for name in self._tasks
            if name not in known
        ]

    def _test(self, judge: Judge, info: TaskInfo) -> list[CaseResult]:
        """What the judge says of the test cases of one of the session's tasks."""
        task = self._tasks[info.name]
        return evaluate_cases(judge, task, info.head, task.test, self._store)

    def _chance(self, untrained: Judge, infos: Sequence[TaskInfo]) -> dict[str, Any]:
        """Every task's scores by the untrained model."""
        scored = {info.name: score_task(self._test(untrained, info), 0.5, self._mode) for info in infos}
        return chance_row([info.name for info in infos], scored)


def _drop_means_of_a_part(metrics: dict[str, Any]) -> None:
    """An interval of a mean stands beside a final average; where that is not defined, over tasks that are gone, it goes."""
    for kind, modes in metrics["intervals"].items():
        for mode, scores in modes.items():
            for name, interval in scores.items():
                summary = metrics["continual"][kind][mode][name]
                if summary is None or summary["final_average"] is None:
                    interval["mean"] = None
