"""Several runs of the same settings: over cross-validation folds, and over orders in which the tasks arrive.

Every run chooses its weights, thresholds, temperatures and, with early stopping, its length on its own training and validation
cases, task by task; the runner hands nothing from one run to another and offers no setting that depends on a later task or on
a test case. Settings that are compared belong compared on the first task's validation cases, or on other data, for the same
reason: a stream that has been seen to its end is no longer a stream.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.contract import FeatureContract
from comel.base.files import read_json, write_json, write_text
from comel.base.settings import parse_section
from comel.cohort.classes import ClassSpace, Head
from comel.cohort.manifest import ManifestRow, read_manifest
from comel.cohort.splits import assign_folds
from comel.cohort.tasks import load_tasks
from comel.errors import ConfigError, RunError
from comel.runs.config import RunConfig
from comel.runs.directory import RunDirectory
from comel.scoring.case_results import CaseResult, read_results, write_results
from comel.scoring.intervals import score_intervals
from comel.scoring.task_scores import mean_over_tasks, score_task
from comel.training.session import plan_of
from comel.training.train import contract_of, is_finished, resolved, stored_plan, train

__all__ = ["over_runs", "train_folds", "train_orders"]

_MOST_ORDERS = 10_000


def train_folds(config: RunConfig | Mapping[str, Any], out: Path, *, folds: int, quiet: bool = False) -> dict[str, Any]:
    """Train one run a cross-validation fold, each tested on the fold that the others were trained on.

    The folds are the manifest's own, where every row carries one, or are dealt out patient-disjoint and stratified by (task,
    label) with ``trainer.seed`` (:func:`comel.cohort.splits.assign_folds`). The same call again keeps
    finished folds and goes on.

    Args:
        config: settings of each run; ``data.fold`` is set here.
        out: folder for ``manifest.csv`` (the cohort with its folds), the runs ``fold-0/`` and on, ``folds.json`` and
            ``folds.csv``.
        folds: their number.
        quiet: no progress.

    Returns:
        What ``folds.json`` holds: ``continual`` (mean, spread and values over the folds of every continual score) and
        ``pooled`` (bag scores of the test cases of all folds together, with intervals by bootstrap over patients; instance
        scores are in ``continual`` only). Probabilities that are pooled come from different models, each calibrated on its
        own validation cases.

    Raises:
        ComelError: settings, manifest, bags or the folder cannot be used.
    """
    config = _checked(config)
    out = Path(out)
    manifest, numbers = _manifest_with_folds(config, out, folds)
    root = config.data.root or (config.data.manifest.parent if config.data.manifest else None)
    updates = [{"manifest": manifest, "root": root, "fold": number} for number in numbers]
    runs = _train_each(config, updates, [out / f"fold-{number}" for number in numbers], quiet)
    metrics = [read_json(run.metrics) for run in runs]
    pooled: list[tuple[int, CaseResult]] = []
    for number, run in zip(numbers, runs, strict=True):
        pooled += [(number, result) for result in _test_results(run)]
    classes = _classes(runs[0])
    write_results(out / "folds.csv", [result for _, result in pooled], classes.names, fold=[number for number, _ in pooled])
    summary = {
        "folds": len(runs),
        "runs": [run.path.name for run in runs],
        "mode": config.data.mode,
        "strategy": config.strategy["name"],
        "tasks": metrics[0]["tasks"],
        "continual": over_runs(metrics),
        "pooled": _pooled_scores([result for _, result in pooled], metrics[0]["tasks"], config.data.mode),
    }
    write_json(out / "folds.json", summary)
    return summary


def train_orders(config: RunConfig | Mapping[str, Any], out: Path, *, orders: int, quiet: bool = False) -> dict[str, Any]:
    """Train one run an order of the tasks: the given one first, then others drawn from ``trainer.seed``, no two the same.

    The cases of each task are split the same way in every run. The same call again keeps finished runs and goes on.

    Args:
        config: settings of each run; ``data.tasks`` is set here.
        out: folder for the runs ``order-0/`` and on and ``orders.json``.
        orders: their number.
        quiet: no progress.

    Returns:
        What ``orders.json`` holds: ``orders`` and ``continual`` (mean, spread and values over the orders of the final average,
        forgetting and the other continual scores).

    Raises:
        ComelError: settings, manifest, bags or the folder cannot be used, or the tasks have fewer orders.
    """
    config = _checked(config)
    names = [task.name for task in load_tasks(config.data)]
    chosen = _orders(names, orders, config.trainer.seed)
    runs = _train_each(
        config, [{"tasks": order} for order in chosen], [Path(out) / f"order-{number}" for number in range(len(chosen))], quiet
    )
    summary = {
        "orders": chosen,
        "runs": [run.path.name for run in runs],
        "mode": config.data.mode,
        "strategy": config.strategy["name"],
        "continual": over_runs([read_json(run.metrics) for run in runs]),
    }
    write_json(Path(out) / "orders.json", summary)
    return summary


def over_runs(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of every continual score over runs.

    Args:
        metrics: each run's ``metrics.json``.

    Returns:
        ``{kind: {mode: {score: {statistic: {"mean", "spread", "values"}}}}}``. The spread is the standard deviation with n - 1,
        None under two values; both are over the runs that define the score.
    """
    summary: dict[str, Any] = {}
    for kind, mode, name in dict.fromkeys(key for run in metrics for key in _scores_of(run["continual"])):
        entries = [run["continual"].get(kind, {}).get(mode, {}).get(name) or {} for run in metrics]
        statistics = {}
        for statistic in dict.fromkeys(key for entry in entries for key in entry):
            values = [entry.get(statistic) for entry in entries]
            known = [value for value in values if value is not None]
            statistics[statistic] = {
                "mean": float(np.mean(known)) if known else None,
                "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None,
                "values": values,
            }
        summary.setdefault(kind, {}).setdefault(mode, {})[name] = statistics
    return summary


def _scores_of(continual: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for kind, modes in continual.items():
        for mode, names in modes.items():
            for name in names:
                yield kind, mode, name


def _checked(config: RunConfig | Mapping[str, Any]) -> RunConfig:
    return resolved(config if isinstance(config, RunConfig) else parse_section(RunConfig, config, "settings"))


def _train_each(
    config: RunConfig, data: Sequence[Mapping[str, Any]], folders: Sequence[Path], quiet: bool
) -> list[RunDirectory]:
    """A run in each folder, of settings that differ in their data section, and all on features of one kind.

    Raises:
        FeatureMismatch: the bags are not as those that one of the runs has learned from.
        RunError: two runs have learned from features that may not be mixed.
    """
    runs = [RunDirectory(folder) for folder in folders]
    contract = next((known for run in runs if (known := contract_of(run)) is not None), None)
    for run, update in zip(runs, data, strict=True):
        one = config.model_copy(update={"data": config.data.model_copy(update=dict(update))})
        _trained(one, run, contract, quiet)
        learned = contract_of(run)
        assert learned is not None
        if contract is not None and (difference := contract.difference(learned)):
            raise RunError(f"{run.path}: has learned from {difference} in the other runs", "train them anew in another --out")
        contract = contract or learned
    return runs


def _trained(config: RunConfig, run: RunDirectory, contract: FeatureContract | None, quiet: bool) -> RunDirectory:
    """The finished run of these settings: kept, gone on with, or trained anew."""
    out = run.path
    if not is_finished(run):
        train(config, out, contract=contract, quiet=quiet)
        return run
    if stored_plan(run) != plan_of(config):
        raise RunError(f"{out}: holds a finished run of other settings or another manifest", "choose another --out")
    return run


def _orders(names: list[str], count: int, seed: int) -> list[list[str]]:
    possible = math.factorial(len(names))
    if not 1 <= count <= min(possible, _MOST_ORDERS):
        raise ConfigError(f"{count} orders: {len(names)} tasks have {possible}", f"give 1 to {min(possible, _MOST_ORDERS)}")
    if possible <= _MOST_ORDERS:
        others = list(itertools.permutations(names))[1:]
        drawn = np.random.default_rng(seed).permutation(len(others))[: count - 1]
        return [names, *(list(others[index]) for index in drawn)]
    generator, found = np.random.default_rng(seed), {tuple(names): None}
    while len(found) < count:
        found.setdefault(tuple(names[index] for index in generator.permutation(len(names))))
    return [list(order) for order in found]


def _manifest_with_folds(config: RunConfig, out: Path, folds: int) -> tuple[Path, list[int]]:
    """Write the cohort with a fold in every row, unless it is there, and give the folds' numbers.

    Raises:
        RunError: the folder holds runs over another manifest or other folds.
    """
    data = config.data
    if data.manifest is None:
        raise ConfigError("no manifest is named", "give --manifest cohort.csv or data.manifest in the config")
    if data.fold is not None:
        raise ConfigError("data.fold is set, but every fold is to be trained", "leave data.fold out")
    rows = read_manifest(data.manifest, root=data.root, tasks=data.tasks).rows
    own = {row.slide_id: row.fold for row in rows if row.fold is not None}
    if len(own) == len(rows):
        fold_of = own
        if len(set(own.values())) != folds:
            raise ConfigError(
                f"{data.manifest.name}: its column fold has {len(set(own.values()))} folds, not {folds}",
                f"say --folds {len(set(own.values()))}, or take the column out",
            )
    else:
        fold_of = assign_folds(rows, folds=folds, seed=config.trainer.seed)
    text = _as_csv([replace(row, fold=fold_of[row.slide_id], split=None) for row in rows])
    path = out / "manifest.csv"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise RunError(f"{path}: holds another cohort or other folds", "choose another --out")
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise RunError(f"{out}: is not empty and holds no folds", "choose another --out")
        write_text(path, text)
    return path, sorted(set(fold_of.values()))


def _as_csv(rows: Sequence[ManifestRow]) -> str:
    names = ("slide_id", "path", "label", "task", "case_id", "patient_id", "site", "fold", "annotation", "mpp")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if getattr(row, name) is None else getattr(row, name) for name in names])
    return text.getvalue()


def _classes(run: RunDirectory) -> ClassSpace:
    return ClassSpace.of(Head.from_dict(head) for head in run.info().model["heads"])


def _test_results(run: RunDirectory) -> list[CaseResult]:
    """What the run's newest version said of its own test cases."""
    info = run.info()
    table = run.path / "evaluations" / f"{info.version:03d}.csv"
    return read_results(table, _classes(run), {task.name: task.head for task in info.tasks})


def _pooled_scores(results: Sequence[CaseResult], tasks: Sequence[str], mode: str) -> dict[str, Any]:
    """Bag scores of pooled cases; the kinds and scores that a table of cases cannot give are left out."""
    by_task = {task: [result for result in results if result.task == task] for task in tasks}
    scored = {}
    for task, cases in by_task.items():
        modes = score_task(cases, 0.5, mode)
        for kinds in modes.values():
            kinds.pop("instance")
            kinds["bag"].pop("ece_uncalibrated")
        scored[task] = modes
    intervals = score_intervals(by_task, dict.fromkeys(tasks, 0.5), mode)
    return {
        "tasks": {task: {"cases": len(by_task[task]), **modes} for task, modes in scored.items()},
        "mean": mean_over_tasks(scored),
        "intervals": {"bag": intervals["bag"]},
    }
