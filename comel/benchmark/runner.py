"""Training a benchmark's rows over its seeds, several at once, and gathering what came out.

Every row is a run directory, trained as a user's is; what is finished is kept, so that a benchmark may be stopped and started
again, or get more rows and seeds later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from comel.benchmark.rows import Benchmark, Row
from comel.errors import ComelError
from comel.files import read_json
from comel.progress import progress_bar

__all__ = ["MEASURES", "RowResult", "run_benchmark"]

MEASURES = {
    "accuracy": ("bag", "accuracy", "final_average"),
    "auc": ("bag", "auc", "final_average"),
    "forgetting": ("bag", "accuracy", "forgetting"),
    "ece": ("bag", "ece", "final_average"),
    "instance_auc": ("instance", "auc", "final_average"),
    "dice": ("instance", "dice", "final_average"),
    "dice_forgetting": ("instance", "dice", "forgetting"),
}
_MODES = {"class-incremental": "class_incremental", "domain-incremental": "domain_incremental"}


@dataclass(frozen=True)
class RowResult:
    """What a row gave with one seed: measures by name, or why there is none."""

    row: str
    group: str
    seed: int
    measures: dict[str, float | None]
    refused: str | None = None


def run_benchmark(
    benchmark: Benchmark,
    make: Callable[[int], dict[str, Any]],
    seeds: Iterable[int],
    out: Path,
    *,
    jobs: int = 2,
    quiet: bool = False,
) -> list[RowResult]:
    """Make the bags of every seed and train every row on them.

    Args:
        benchmark: the suite and its rows.
        make: from a seed to the ``data`` settings of its stream, made if they are not there yet.
        seeds: of the streams; a row's weights are drawn from the same seed.
        out: folder of the runs: ``seed-N/runs/ROW``.
        jobs: trainings at once, each in a process of its own.
        quiet: no progress.

    Returns:
        a result a row and seed, in their order. A row that its strategy refuses carries the reason.
    """
    seeds = list(seeds)
    work: list[tuple[Row, int, Path, dict[str, Any]]] = []
    for seed in seeds:
        data = make(seed)
        for row in benchmark.rows:
            run = out / f"seed-{seed}" / "runs" / row.name
            work.append((row, seed, run, benchmark.settings(row, data, seed)))
    results: dict[int, RowResult] = {}
    with (
        progress_bar(len(work), f"bench {benchmark.suite}", quiet=quiet) as advance,
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
    ):
        futures = {pool.submit(_train, run, settings): i for i, (_, _, run, settings) in enumerate(work)}
        for future in as_completed(futures):
            i = futures[future]
            row, seed, run, _ = work[i]
            refused = future.result()
            measures = dict.fromkeys(MEASURES) if refused else _measures(read_json(run / "metrics.json"))
            results[i] = RowResult(row.name, row.group, seed, measures, refused)
            advance(1, text=f"seed {seed} {row.name}")
    return [results[i] for i in range(len(work))]


def _train(run: Path, settings: dict[str, Any]) -> str | None:
    """Train one row unless it is finished; the reason where its strategy or model refuses."""
    from comel.training import train

    metrics = run / "metrics.json"
    if metrics.exists() and read_json(metrics).get("finished"):
        return None
    try:
        train(settings, run, quiet=True)
    except ComelError as error:
        return str(error)
    return None


def _measures(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The scores of a finished run that the table shows, and what they cost."""
    mode = _MODES[metrics["mode"]]
    found: dict[str, float | None] = {}
    for name, (kind, score, statistic) in MEASURES.items():
        found[name] = (metrics["continual"].get(kind, {}).get(mode, {}).get(score) or {}).get(statistic)
    within = metrics["continual"]["bag"].get("task_incremental")
    found["within_task_accuracy"] = within["accuracy"]["final_average"] if within else None
    stages = metrics["stages"]
    found["trained_parameters"] = max(stage.get("trained_parameters", 0) for stage in stages[-1:])
    found["old_data_bytes"] = max(stage.get("old_data_bytes", 0) for stage in stages)
    found["seconds_per_task"] = sum(stage.get("seconds", 0) for stage in stages) / len(metrics["tasks"])
    return found
