"""What a stage adds to a run's ``metrics.json`` and ``evaluations/``: scores on every test set whose bags are here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from comel.base.files import read_json, write_json
from comel.cohort.bags import BagStore
from comel.cohort.tasks import TaskData
from comel.models.base import MILModel
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
        """Append a stage to the R matrices; tasks whose bags are no longer here stay None.

        In a domain-incremental run the tasks that are yet to come are scored too, with the newest task's threshold, and once
        by the untrained model.

        Args:
            model: after the stage, with its temperatures and thresholds chosen.
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
        results = {info.name: self.run_model(model, info, "test") for info in here}
        thresholds = {info.name: info.threshold for info in learned}
        scored = {name: score_task(cases, thresholds[name], self._mode) for name, cases in results.items()}
        for info in ahead:
            scored[info.name] = score_task(self.run_model(model, info, "test"), info.threshold, self._mode)
        if ahead and not metrics["stages"]:
            metrics["chance"] = self._chance([*learned, *ahead])
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
        write_results(self._run.path / "evaluations" / f"{version:03d}.csv", everything, model.classes.names)
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

    def _chance(self, infos: Sequence[TaskInfo]) -> dict[str, Any]:
        """Every task's scores by the untrained model."""
        model = self._untrained()
        scored = {info.name: score_task(self.run_model(model, info, "test"), 0.5, self._mode) for info in infos}
        return chance_row([info.name for info in infos], scored)


def _drop_means_of_a_part(metrics: dict[str, Any]) -> None:
    """An interval of a mean stands beside a final average; where that is not defined, over tasks that are gone, it goes."""
    for kind, modes in metrics["intervals"].items():
        for mode, scores in modes.items():
            for name, interval in scores.items():
                summary = metrics["continual"][kind][mode][name]
                if summary is None or summary["final_average"] is None:
                    interval["mean"] = None
