"""Training a benchmark's rows over its seeds, several at once, and collecting the results.

Every row is a run directory, trained like a user's; finished runs are kept, so that a benchmark may be stopped and started
again, or get more rows and seeds later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comel.app.benchmark.rows import Benchmark, Row
from comel.base.files import read_json
from comel.base.killable import Fault, WorkerFailure
from comel.base.progress import progress_bar
from comel.base.units import Mode
from comel.base.workers import WorkerPool, failure
from comel.errors import CapacityError, ComelError, ConfigError, RunError

__all__ = ["MEASURES", "RowResult", "run_benchmark"]

MEASURES = {
    "accuracy": ("bag", "accuracy", "final_average"),
    "auc": ("bag", "auc", "final_average"),
    "forgetting": ("bag", "accuracy", "forgetting"),
    "instance_auc": ("instance", "auc", "final_average"),
    "dice": ("instance", "dice", "final_average"),
    "dice_forgetting": ("instance", "dice", "forgetting"),
}
_TASK_MEASURES = {("bag", "accuracy"): "accuracy", ("bag", "auc"): "auc", ("instance", "auc"): "instance_auc"}


@dataclass(frozen=True)
class RowResult:
    """A row's results for one seed: measures by name, or why there are none; scores of each task by name, the task given."""

    row: str
    group: str
    seed: int
    measures: dict[str, float | None]
    refused: str | None = None
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)


def run_benchmark(
    benchmark: Benchmark,
    make: Callable[[int], dict[str, Any]],
    seeds: Iterable[int],
    out: Path,
    *,
    folds: int | None = None,
    jobs: int = 2,
    quiet: bool = False,
) -> list[RowResult]:
    """Make the bags of every seed and train every row on them.

    Args:
        benchmark: the suite and its rows.
        make: returns the ``data`` settings of a seed's stream, which it makes if missing.
        seeds: the streams' seeds; a row's weights are drawn from the same seed.
        out: the folder of the runs: ``seed-N/runs/ROW``.
        folds: cross-validate every row over this many folds; measures are then means over folds, and ``pooled_auc`` is the bag
            AUC of the test cases of all folds together, task by task, with its interval by bootstrap over patients.
        jobs: trainings at the same time, each in its own process.
        quiet: print no progress.

    Returns:
        one result per row and seed, in their order. A row that its strategy or model refuses holds the reason.

    Raises:
        ComelError: a folder of the runs has other content, or a training was killed. Finished runs are kept.
    """
    work: list[tuple[Row, int, Path, dict[str, Any]]] = []
    for seed in seeds:
        data = make(seed)
        for row in benchmark.rows:
            run = out / f"seed-{seed}" / "runs" / row.name
            work.append((row, seed, run, benchmark.settings(row, data, seed)))
    results: dict[int, RowResult] = {}
    with (
        progress_bar(len(work), f"bench {benchmark.suite}", quiet=quiet) as advance,
        WorkerPool(jobs) as workers,
        ThreadPoolExecutor(jobs) as threads,
    ):
        futures = {
            threads.submit(workers.call, _train, run, settings, folds): i for i, (_, _, run, settings) in enumerate(work)
        }
        try:
            for future in as_completed(futures):
                i = futures[future]
                row, seed, run, _ = work[i]
                refused = _outcome(future, f"row '{row.name}', seed {seed}")
                measures = dict.fromkeys(MEASURES) if refused else _measures(run, folds)
                tasks = {} if refused or folds is not None else _of_tasks(run)
                results[i] = RowResult(row.name, row.group, seed, measures, refused, tasks)
                advance(1, text=f"seed {seed} {row.name}")
        except BaseException as error:
            threads.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):  # Ctrl-C, which the processes do not see
                workers.close()
            raise
    return [results[i] for i in range(len(work))]


def _outcome(future: Future[str | None], where: str) -> str | None:
    """The result of :func:`_train`.

    Raises:
        ComelError: the training cannot be done with these settings or this folder.
        RuntimeError: a bug, prefixed with the row's name.
    """
    try:
        return future.result()
    except ComelError as error:
        raise RunError(f"{where}: {error}") from error
    except WorkerFailure as error:
        if error.fault is Fault.DEFECT:
            defect = RuntimeError(f"{where}: {error}")
            defect.add_note(error.trace)
            raise defect from None
        remedy = "give the same command again, with --jobs 1; finished rows are kept"
        killed = RunError("a training was killed, perhaps for lack of memory", remedy)
        raise failure(error, where, {Fault.DIED: killed, Fault.MEMORY: RunError(f"{where}: {error}", remedy)}) from None


def _train(run: Path, settings: dict[str, Any], folds: int | None) -> str | None:
    """Train one row unless it is finished; returns the reason if its strategy or model refuses."""
    from comel.base.settings import parse_section
    from comel.cohort.tasks import read_cohort
    from comel.runs.config import RunConfig
    from comel.runs.directory import RunDirectory
    from comel.runs.parts import resolved
    from comel.training.cross_validation import train_folds
    from comel.training.plan import plan_of, stored_plan
    from comel.training.train import train

    config = resolved(parse_section(RunConfig, settings, "settings"))
    directory = RunDirectory(run)
    try:
        if folds is not None:
            train_folds(config, run, folds=folds, quiet=True)
        elif not directory.is_finished:
            train(config, run, quiet=True)
        elif stored_plan(directory, manifest := read_cohort(config.data)) != plan_of(config, manifest):
            raise RunError(f"{run}: holds a finished run of other settings", "choose another --out, or delete the run")
    except (ConfigError, CapacityError) as error:
        return str(error)
    return None


def _measures(run: Path, folds: int | None) -> dict[str, float | None]:
    """The scores of a row that the table shows, and their cost."""
    if folds is None:
        return _of_run(run)
    every = [_of_run(run / f"fold-{fold}") for fold in range(folds)]
    means: dict[str, float | None] = {}
    for name in every[0]:
        values = [value for one in every if (value := one[name]) is not None]
        means[name] = sum(values) / len(values) if values else None
    summary = read_json(run / "folds.json")
    pooled, mode = summary["pooled"], Mode(summary["mode"]).key
    means["pooled_auc"] = pooled["mean"][mode]["bag"].get("auc")
    means["pooled_auc_low"], means["pooled_auc_high"] = pooled["intervals"]["bag"][mode]["auc"]["mean"] or (None, None)
    return means


def _of_tasks(run: Path) -> dict[str, dict[str, float]]:
    """After the last stage, with the task given: each task's bag accuracy and AUC, and the AUC of its instances."""
    from comel.runs.metrics import read_metrics
    from comel.scoring.continual import ScoreTable

    found: dict[str, dict[str, float]] = {}
    for row in ScoreTable.of_run(read_metrics(run / "metrics.json")).last_rows:
        name = _TASK_MEASURES.get((row.kind, row.name))
        if row.mode == Mode.TASK and row.task is not None and name and row.value is not None:
            found.setdefault(row.task, {})[name] = row.value
    return found


def _of_run(run: Path) -> dict[str, float | None]:
    from comel.runs.metrics import read_metrics
    from comel.scoring.continual import ScoreTable

    metrics = read_metrics(run / "metrics.json")
    table, mode, stages = ScoreTable.of_run(metrics), metrics.mode or Mode.CLASS, metrics.stages
    found = {name: table.statistic(kind, mode, score, statistic) for name, (kind, score, statistic) in MEASURES.items()}
    found["within_task_accuracy"] = table.statistic("bag", Mode.TASK, "accuracy", "final_average")
    found["trained_parameters"] = stages[-1].trained_parameters or 0
    found["old_data_bytes"] = max(stage.old_data_bytes or 0 for stage in stages)
    found["seconds_per_task"] = sum(stage.seconds or 0 for stage in stages) / len(metrics.tasks)
    return found
