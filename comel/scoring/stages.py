"""What a stage adds to a run's ``metrics.json`` and ``evaluations/``: scores on every test set whose bags are here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from comel.base.units import Mode
from comel.cohort.bags import BagStore
from comel.cohort.tasks import TaskData
from comel.models.base import MILModel
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
        run: where results go.
        config: of the session.
        tasks: whose bags are here, in the order they arrive.
        store: reads the bags.
        device: of the model.
        untrained: makes the model as the first stage finds it.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        tasks: Sequence[TaskData],
        store: BagStore,
        device: torch.device,
        untrained: Callable[[], MILModel],
    ) -> None:
        self._run, self._mode, self._strategy = run, config.data.mode, config.strategy["name"]
        self._tasks = {task.name: task for task in tasks}
        self._store, self._device, self._untrained = store, device, untrained

    def run_model(self, model: MILModel, info: TaskInfo, split: str) -> list[CaseResult]:
        """The model over the cases of a split of one of the session's tasks."""
        task = self._tasks[info.name]
        return evaluate_cases(model, task, info.head, task.cases(split), self._store, self._device)

    def record(self, model: MILModel, learned: Sequence[TaskInfo], account: dict[str, Any], *, last: bool) -> None:
        """Append a stage to the table of scores; tasks whose bags are no longer here get no rows.

        In a domain-incremental run the tasks that are yet to come are scored too, with the newest task's threshold, and once
        by the untrained model.

        Args:
            model: after the stage, with its temperatures and thresholds chosen.
            learned: all tasks learned so far.
            account: a :class:`comel.runs.metrics.StageAccount`'s values.
            last: whether the session ends with this stage: then intervals are computed.
        """
        entry = StageAccount.model_validate(account)
        before = read_metrics(self._run.metrics)
        stages = [stage for stage in before.stages if stage.version < entry.version]
        number = len(stages)
        ahead = self._ahead(learned)
        results = {info.name: self.run_model(model, info, "test") for info in learned if info.name in self._tasks}
        thresholds = {info.name: info.threshold for info in learned}
        columns = [info.name for info in (*learned, *ahead)]
        rows = [row for row in before.scores if row.stage < number and row.task in (None, *columns)]
        if not stages:
            rows = self._chance([*learned, *ahead]) if ahead else []
        for name, cases in results.items():
            rows += score_task(name, cases, thresholds[name], self._mode, stage=number)
        for info in ahead:
            rows += score_task(info.name, self.run_model(model, info, "test"), info.threshold, self._mode, stage=number)
        table = ScoreTable(rows, columns, learned=len(learned))
        if last:
            averages = {key: (scores or {}).get("final_average") for key, scores in table.continual.items()}
            table = table.with_intervals(score_intervals(results, thresholds, self._mode), averages)
        everything = [result for cases in results.values() for result in cases]
        write_results(self._run.evaluation(entry.version), everything, model.classes.names)
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
        """The tasks to come that the one head of a domain-incremental run can judge already."""
        if self._mode != Mode.DOMAIN:
            return []
        known, newest = {info.name for info in learned}, learned[-1]
        return [
            TaskInfo(name=name, head=newest.head, stage=newest.stage + 1, threshold=newest.threshold)
            for name in self._tasks
            if name not in known
        ]

    def _chance(self, infos: Sequence[TaskInfo]) -> list[ScoreRow]:
        """Every task's scores by the untrained model."""
        model = self._untrained()
        results = {info.name: self.run_model(model, info, "test") for info in infos}
        return [row for task, cases in results.items() for row in score_task(task, cases, 0.5, self._mode, stage=CHANCE)]
