"""A stage's additions to a run's ``metrics.json`` and ``evaluations/``: scores on every test set with bags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comel.base.units import Mode
from comel.cohort.bags import BagStore
from comel.cohort.tasks import TaskData
from comel.prediction.judge import Judge
from comel.runs.config import RunConfig
from comel.runs.directory import RunDirectory
from comel.runs.metrics import CHANCE, RunMetrics, ScoreRow, StageAccount, read_metrics, write_metrics
from comel.runs.version import TaskInfo
from comel.scoring.case_results import CaseResult, write_results
from comel.scoring.continual import ScoreTable
from comel.scoring.evaluate import evaluate_cases
from comel.scoring.intervals import score_intervals
from comel.scoring.task_scores import score_task

__all__ = ["StageScorer"]


class StageScorer:
    """Scores the stages of a session and keeps the run's ``metrics.json``.

    Args:
        run: the run that results go to.
        config: the session's settings.
        tasks: the tasks with bags, in the order they arrive.
        store: the store that reads the bags.
        untrained: judge of the untrained model, whose scores are chance level; None if no stage of
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
        """Append a stage to the table of scores; tasks whose bags are no longer available get no rows.

        In a domain-incremental run future tasks are scored too, with the newest task's threshold, and once
        by the untrained model.

        Args:
            judge: judge of the model after the stage, with temperatures and thresholds chosen.
            learned: all tasks learned so far.
            account: a :class:`comel.runs.metrics.StageAccount`'s values.
            last: whether the session ends with this stage: then intervals are computed.
        """
        entry = StageAccount.model_validate(account)
        before = read_metrics(self._run.metrics)
        stages = [stage for stage in before.stages if stage.version < entry.version]
        number = len(stages)
        ahead = self._ahead(learned)
        results = {info.name: self._test(judge, info) for info in learned if info.name in self._tasks}
        thresholds = {info.name: info.threshold for info in learned}
        columns = [info.name for info in (*learned, *ahead)]
        rows = [row for row in before.scores if row.stage < number and row.task in (None, *columns)]
        if not stages:
            rows = self._chance(self._untrained, [*learned, *ahead]) if ahead and self._untrained is not None else []
        for name, cases in results.items():
            rows += score_task(name, cases, thresholds[name], self._mode, stage=number)
        for info in ahead:
            rows += score_task(info.name, self._test(judge, info), info.threshold, self._mode, stage=number)
        table = ScoreTable(rows, columns, learned=len(learned))
        if last:
            averages = {key: (scores or {}).get("final_average") for key, scores in table.continual.items()}
            table = table.with_intervals(score_intervals(results, thresholds, self._mode), averages)
        everything = [result for cases in results.values() for result in cases]
        write_results(self._run.evaluation(entry.version), everything, judge.classes.names)
        metrics = RunMetrics(
            mode=self._mode,
            strategy=self._strategy,
            tasks=columns,
            stages=[*stages, entry],
            thresholds=thresholds,
            temperatures={info.name: info.temperature for info in learned},
            scores=table.rows,
        )
        write_metrics(self._run.metrics, metrics)

    def finish(self) -> None:
        """Mark ``metrics.json`` as finished."""
        write_metrics(self._run.metrics, read_metrics(self._run.metrics).model_copy(update={"finished": True}))

    def _ahead(self, learned: Sequence[TaskInfo]) -> list[TaskInfo]:
        """The future tasks that the only head of a domain-incremental run can judge already."""
        if self._mode != Mode.DOMAIN:
            return []
        known, newest = {info.name for info in learned}, learned[-1]
        return [
            TaskInfo(name=name, head=newest.head, stage=newest.stage + 1, threshold=newest.threshold)
            for name in self._tasks
            if name not in known
        ]

    def _test(self, judge: Judge, info: TaskInfo) -> list[CaseResult]:
        """The judge's answers for the test cases of one of the session's tasks."""
        task = self._tasks[info.name]
        return evaluate_cases(judge, task, info.head, task.test, self._store)

    def _chance(self, untrained: Judge, infos: Sequence[TaskInfo]) -> list[ScoreRow]:
        """Every task's scores by the untrained model."""
        results = {info.name: self._test(untrained, info) for info in infos}
        return [row for task, cases in results.items() for row in score_task(task, cases, 0.5, self._mode, stage=CHANCE)]
