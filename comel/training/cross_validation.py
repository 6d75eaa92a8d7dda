"""Several runs of the same settings: over cross-validation folds, and over orders in which the tasks arrive.

Every run chooses its weights, thresholds, temperatures and, with early stopping, its length on its own training and validation
cases, task by task; nothing passes from one run to another, and no setting depends on a later task or on
a test case. Compare settings on the first task's validation cases, or on other data, for the same
reason: a stream that has been seen to its end is no longer a stream.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.contract import FeatureContract
from comel.base.files import write_json, write_text
from comel.base.progress import say
from comel.base.settings import parse_section
from comel.base.units import Mode
from comel.cohort.manifest import Manifest, ManifestRow
from comel.cohort.splits import assign_folds, splits_put_aside
from comel.cohort.tasks import load_tasks, read_cohort
from comel.errors import ConfigError, RunError
from comel.runs.config import RunConfig
from comel.runs.directory import RunDirectory
from comel.runs.metrics import read_metrics
from comel.runs.parts import resolved
from comel.scoring.case_results import CaseResult, read_results, write_results
from comel.scoring.continual import ScoreTable, nested
from comel.scoring.intervals import score_cases
from comel.training.plan import plan_of, stored_plan
from comel.training.train import continue_or_begin, contract_of

__all__ = ["over_runs", "train_folds", "train_orders"]

_MOST_ORDERS = 10_000


def train_folds(config: RunConfig | Mapping[str, Any], out: Path, *, folds: int, quiet: bool = False) -> dict[str, Any]:
    """Train one run per cross-validation fold, each tested on its own fold and trained on the others.

    The folds are the manifest's own, if it has any; otherwise they are assigned patient-disjoint and stratified by (task,
    label) with ``trainer.seed`` (:func:`comel.cohort.splits.assign_folds`). A second call keeps
    finished folds and continues.

    Args:
        config: settings of each run; ``data.fold`` is set here.
        out: the folder for ``manifest.csv`` (the cohort with its folds), the runs ``fold-0/``, ``fold-1/``, ..., ``folds.json``
            and ``folds.csv``.
        folds: the number of folds.
        quiet: no progress.

    Returns:
        The content of ``folds.json``: ``continual`` (mean, spread and values over the folds of every continual score) and
        ``pooled`` (bag scores of the test cases of all folds together, with intervals by bootstrap over patients; instance
        scores are in ``continual`` only). Probabilities that are pooled come from different models, each calibrated on its
        own validation cases.

    Raises:
        ComelError: settings, manifest, bags or the folder cannot be used.
    """
    config = _checked(config)
    out = Path(out)
    cohort = read_cohort(config.data).of_tasks(config.data.tasks)
    dealt = _with_folds(cohort, config, out / "manifest.csv", folds)
    for note in splits_put_aside(cohort.rows):
        say(f"training: {note}", quiet=quiet)
    _keep(dealt)
    root = config.data.root or cohort.path.parent
    numbers = sorted({row.fold for row in dealt.rows if row.fold is not None})
    updates = [{"manifest": dealt.path, "root": root, "fold": number} for number in numbers]
    runs = _train_each(config, dealt, updates, [out / f"fold-{number}" for number in numbers], quiet)
    metrics = [read_metrics(run.metrics) for run in runs]
    pooled: list[tuple[int, CaseResult]] = []
    for number, run in zip(numbers, runs, strict=True):
        pooled += [(number, result) for result in _test_results(run)]
    classes = runs[0].info().classes.names
    write_results(out / "folds.csv", [result for _, result in pooled], classes, fold=[number for number, _ in pooled])
    summary = {
        "folds": len(runs),
        "runs": [run.path.name for run in runs],
        "mode": config.data.mode,
        "strategy": config.strategy["name"],
        "tasks": metrics[0].tasks,
        "continual": over_runs([ScoreTable.of_run(run) for run in metrics]),
        "pooled": _pooled_scores([result for _, result in pooled], metrics[0].tasks, config.data.mode),
    }
    write_json(out / "folds.json", summary)
    return summary


def train_orders(config: RunConfig | Mapping[str, Any], out: Path, *, orders: int, quiet: bool = False) -> dict[str, Any]:
    """Train one run per order of the tasks: the given one first, then others drawn from ``trainer.seed``, all distinct.

    The cases of each task are split the same way in every run. A second call keeps finished runs and continues.

    Args:
        config: settings of each run; ``data.tasks`` is set here.
        out: the folder for the runs ``order-0/``, ``order-1/``, ... and ``orders.json``.
        orders: the number of orders.
        quiet: no progress.

    Returns:
        The content of ``orders.json``: ``orders`` and ``continual`` (mean, spread and values over the orders of the final
        average, forgetting and the other continual scores).

    Raises:
        ComelError: settings, manifest, bags or the folder cannot be used, or the tasks have fewer orders.
    """
    config = _checked(config)
    cohort = read_cohort(config.data)
    names = [task.name for task in load_tasks(cohort, config.data)]
    chosen = _orders(names, orders, config.trainer.seed)
    folders = [Path(out) / f"order-{number}" for number in range(len(chosen))]
    runs = _train_each(config, cohort, [{"tasks": order} for order in chosen], folders, quiet)
    summary = {
        "orders": chosen,
        "runs": [run.path.name for run in runs],
        "mode": config.data.mode,
        "strategy": config.strategy["name"],
        "continual": over_runs([ScoreTable.of_run(read_metrics(run.metrics)) for run in runs]),
    }
    write_json(Path(out) / "orders.json", summary)
    return summary


def over_runs(tables: Sequence[ScoreTable]) -> dict[str, Any]:
    """Mean and spread of every continual score over runs.

    Args:
        tables: each run's scores.

    Returns:
        ``{kind: {mode: {score: {statistic: {"mean", "spread", "values"}}}}}``. The spread is the standard deviation with n - 1,
        None for fewer than two values; both are over the runs that define the score.
    """
    entries = []
    for key in dict.fromkeys(key for table in tables for key in table.continual):
        found = [table.continual.get(key) or {} for table in tables]
        statistics = {}
        for statistic in dict.fromkeys(name for scores in found for name in scores):
            values = [scores.get(statistic) for scores in found]
            known = [value for value in values if value is not None]
            statistics[statistic] = {
                "mean": float(np.mean(known)) if known else None,
                "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None,
                "values": values,
            }
        kind, mode, name = key
        entries.append((kind, mode.key, name, statistics))
    return nested(entries)


def _checked(config: RunConfig | Mapping[str, Any]) -> RunConfig:
    return resolved(config if isinstance(config, RunConfig) else parse_section(RunConfig, config, "settings"))


def _train_each(
    config: RunConfig, manifest: Manifest, data: Sequence[Mapping[str, Any]], folders: Sequence[Path], quiet: bool
) -> list[RunDirectory]:
    """One run per folder, with settings that differ only in their data section, all on features of one kind.

    Raises:
        FeatureMismatch: the bags differ in kind from those that one of the runs has learned from.
        RunError: two runs have learned from features that may not be mixed.
    """
    runs = [RunDirectory(folder) for folder in folders]
    contract = next((known for run in runs if (known := contract_of(run)) is not None), None)
    for run, update in zip(runs, data, strict=True):
        one = config.model_copy(update={"data": config.data.model_copy(update=dict(update))})
        _trained(one, manifest, run, contract, quiet)
        learned = contract_of(run)
        assert learned is not None
        if contract is not None and (difference := contract.difference(learned)):
            raise RunError(f"{run.path}: has learned from {difference} in the other runs", "train them again in another --out")
        contract = contract or learned
    return runs


def _trained(config: RunConfig, manifest: Manifest, run: RunDirectory, contract: FeatureContract | None, quiet: bool) -> None:
    """The finished run of these settings: kept, continued, or trained from scratch."""
    if not run.is_finished:
        continue_or_begin(run, config, manifest, contract=contract, quiet=quiet)
    elif stored_plan(run, manifest) != plan_of(config, manifest):
        raise RunError(f"{run.path}: holds a finished run of other settings or another manifest", "choose another --out")


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


def _with_folds(cohort: Manifest, config: RunConfig, path: Path, folds: int) -> Manifest:
    """The cohort with a fold in every row and no split, as in the file at ``path``."""
    if config.data.fold is not None:
        raise ConfigError("data.fold is set, but every fold is trained", "leave data.fold out")
    fold_of = {row.slide_id: row.fold for row in cohort.rows if row.fold is not None}
    if fold_of:
        without = [row.slide_id for row in cohort.rows if row.fold is None]
        if without:
            raise ConfigError(
                f"{cohort.path.name}: {len(without)} slides have no fold (such as {without[0]})",
                "fill in the column fold, or remove it",
            )
        if (own := len(set(fold_of.values()))) != folds:
            raise ConfigError(
                f"{cohort.path.name}: the column fold has {own} folds, not {folds}",
                f"give --folds {own}, or remove the column",
            )
    else:
        fold_of = assign_folds(cohort.rows, folds=folds, seed=config.trainer.seed)
    rows = [replace(row, row=number, fold=fold_of[row.slide_id], split=None) for number, row in enumerate(cohort.rows, start=2)]
    return Manifest(path, rows, hashlib.sha256(_as_csv(rows).encode()).hexdigest())


def _keep(dealt: Manifest) -> None:
    """Write the cohort with its folds, for training or reporting a single fold, unless it exists.

    Raises:
        RunError: the folder holds runs over another manifest or other folds.
    """
    path, text = dealt.path, _as_csv(dealt.rows)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise RunError(f"{path}: holds another cohort or other folds", "choose another --out")
    if not path.exists():
        if path.parent.is_dir() and any(path.parent.iterdir()):
            raise RunError(f"{path.parent}: is not empty and holds no folds", "choose another --out")
        write_text(path, text)


def _as_csv(rows: Sequence[ManifestRow]) -> str:
    names = ("slide_id", "path", "label", "task", "case_id", "patient_id", "site", "fold", "annotation", "mpp")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if getattr(row, name) is None else getattr(row, name) for name in names])
    return text.getvalue()


def _test_results(run: RunDirectory) -> list[CaseResult]:
    """The answers of the run's newest version for its own test cases."""
    info = run.info()
    return read_results(run.evaluation(info.version), info)


def _pooled_scores(results: Sequence[CaseResult], tasks: Sequence[str], mode: Mode) -> dict[str, Any]:
    """Bag scores of pooled cases; the kinds and scores that a table of cases cannot give are left out."""
    by_task = {task: [result for result in results if result.task == task] for task in tasks}
    rows = score_cases(by_task, dict.fromkeys(tasks, 0.5), mode).rows
    known = ScoreTable(row for row in rows if row.kind != "instance" and row.name != "ece_uncalibrated")
    return known.nested_scores({task: len(cases) for task, cases in by_task.items()})
