"""Scores of a model on the tasks' cases: bag and instance, with the task unknown and with the task given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comel.data import BagStore, Case, TaskData
from comel.files import atomic_path
from comel.metrics import bag_metrics, choose_threshold, continual_metrics, instance_metrics
from comel.models.base import MILModel
from comel.trainer import make_batch

__all__ = [
    "CaseResult",
    "choose_instance_threshold",
    "continual",
    "evaluate_cases",
    "new_matrices",
    "score_task",
    "write_results",
]

Matrices = dict[str, dict[str, dict[str, list[list[float | None]]]]]


@dataclass(frozen=True)
class CaseResult:
    """What the model says of one case whose label is known.

    Attributes:
        case, task, head, column: the case, its task, and where its label stands.
        probabilities: (C,) over all classes.
        within: (C,) within the case's own task, 0 elsewhere.
        scores: (N,) instance scores of the predicted task.
        scores_given: (N,) instance scores with the task given.
        chances: (N,) what the instance threshold is chosen on.
        labels: (N,) instance labels, or None.
    """

    case: Case
    task: str
    head: int
    column: int
    probabilities: np.ndarray
    within: np.ndarray
    scores: np.ndarray
    scores_given: np.ndarray
    chances: np.ndarray
    labels: np.ndarray | None


@torch.inference_mode()
def evaluate_cases(
    model: MILModel,
    task: TaskData,
    head: int,
    cases: Iterable[Case],
    store: BagStore,
    device: torch.device,
    advance: Callable[..., None] = lambda steps=1, text="": None,
) -> list[CaseResult]:
    """Run the model over cases of one task. A case without tissue is left out: there is nothing to say of it."""
    model.eval()
    results = []
    for case in cases:
        bag = store.read(case)
        advance()
        if not len(bag):
            continue
        output = model(make_batch(bag, device))
        probabilities = model.probabilities(output)[0]
        predicted = model.classes.head_of(int(probabilities.argmax()))
        results.append(
            CaseResult(
                case=case,
                task=task.name,
                head=head,
                column=model.classes.column(head, case.label),
                probabilities=probabilities.double().cpu().numpy(),
                within=model.probabilities(output, head)[0].double().cpu().numpy(),
                scores=model.evidence(output, predicted, given=False)[0].float().cpu().numpy(),
                scores_given=model.evidence(output, head, given=True)[0].float().cpu().numpy(),
                chances=model.chance(output, head)[0].float().cpu().numpy(),
                labels=None if bag.labels is None else np.asarray(bag.labels),
            )
        )
    return results


def choose_instance_threshold(results: Sequence[CaseResult]) -> tuple[float, str]:
    """The instance threshold from validation cases, and what it was chosen on; 0.5 where they have no instance labels."""
    labelled = [(result.chances, result.labels) for result in results if result.labels is not None]
    if not labelled:
        return 0.5, "default"
    scores = np.concatenate([scores for scores, _ in labelled])
    labels = np.concatenate([labels for _, labels in labelled])
    if len(np.unique(labels[labels >= 0])) < 2:
        return 0.5, "default"
    return choose_threshold(scores, labels), "validation"


def score_task(results: Sequence[CaseResult], threshold: float, mode: str) -> dict[str, dict[str, dict[str, float | None]]]:
    """Scores of one task's cases: ``{mode: {"bag": {...}, "instance": {...}}}``.

    In a class-incremental run under ``class_incremental`` (any class may be predicted) and ``task_incremental`` (the
    classes of the case's own task only); in a domain-incremental run, where there is one head, under ``domain_incremental``.
    """
    labels = [result.column for result in results]
    labelled = [result for result in results if result.labels is not None]

    def scores(bags: list[np.ndarray], instances: Callable[[CaseResult], np.ndarray]) -> dict[str, dict[str, float | None]]:
        width = len(bags[0]) if bags else 0
        bag = bag_metrics(np.array(bags).reshape(len(bags), width), labels)
        known = instance_metrics([instances(r) for r in labelled], [_known(r) for r in labelled], threshold=threshold)
        return {"bag": bag, "instance": known}

    free = scores([result.probabilities for result in results], lambda r: r.scores)
    if mode == "domain-incremental":
        return {"domain_incremental": free}
    return {"class_incremental": free, "task_incremental": scores([r.within for r in results], lambda r: r.scores_given)}


def _known(result: CaseResult) -> np.ndarray:
    assert result.labels is not None
    return result.labels


def new_matrices() -> Matrices:
    """Empty R matrices: kind (bag, instance) -> mode -> score -> rows."""
    return {"bag": {}, "instance": {}}


def append_row(matrices: Matrices, tasks: Sequence[str], scored: Mapping[str, Any]) -> None:
    """Append a row to every matrix from ``{task: score_task(...)}``; a task that was not scored gets None.

    Earlier rows are widened with None for tasks that are new.
    """
    first = next(iter(scored.values()))
    for mode, kinds in first.items():
        for kind, values in kinds.items():
            for name in values:
                rows = matrices[kind].setdefault(mode, {}).setdefault(name, [])
                rows.append([scored[task][mode][kind][name] if task in scored else None for task in tasks])
                for row in rows:
                    row.extend([None] * (len(tasks) - len(row)))


def continual(matrices: Matrices) -> dict[str, dict[str, dict[str, Any]]]:
    """Average, transfer and forgetting of every matrix; None where the matrix is neither (T, T) nor (1, T)."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, modes in matrices.items():
        for mode, names in modes.items():
            for name, rows in names.items():
                fits = len(rows) in (1, len(rows[-1]))
                summary.setdefault(kind, {}).setdefault(mode, {})[name] = continual_metrics(rows) if fits else None
    return summary


def write_results(path: Path, results: Sequence[CaseResult], classes: Sequence[str]) -> None:
    """One CSV row a case: its label, the prediction with the task unknown and with the task given, all probabilities."""
    import pandas

    rows = [
        {
            "case_id": result.case.name,
            "patient_id": result.case.patient,
            "task": result.task,
            "label": result.case.label,
            "predicted": classes[int(result.probabilities.argmax())],
            "predicted_with_task_given": classes[int(result.within.argmax())],
            **{f"p:{name}": float(p) for name, p in zip(classes, result.probabilities, strict=True)},
        }
        for result in results
    ]
    with atomic_path(path) as temporary:
        pandas.DataFrame(rows).to_csv(temporary, index=False)


def evaluate_run(
    run: Path,
    manifest: Path,
    bags: Path,
    *,
    version: int | None = None,
    split: str | None = "test",
    device: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Score a version on a manifest's cases, with the thresholds that the version carries.

    Args:
        run: the run directory.
        manifest: cases of tasks that the version has learned.
        bags: their feature files.
        version: default the current one.
        split: train, val or test as the training dealt the slides out, or as the manifest says of slides that it did not see
            (test where it says nothing); None for every case.
        device: auto, cpu, cuda.
        quiet: no progress.

    Returns:
        ``{"run", "version", "split", "tasks": {name: {"cases", mode: {"bag", "instance"}}}, "mean": {mode: ...}}``.

    Raises:
        ComelError: run, manifest or bags cannot be used, or a task is not known to the version.
    """
    from comel.config import load_config
    from comel.data import load_tasks
    from comel.errors import ConfigError
    from comel.progress import progress_bar
    from comel.run import RunDirectory, build_model, load_state
    from comel.trainer import resolve_device

    directory = RunDirectory(run)
    info = directory.info(version)
    directory.verify(info.version)
    stored = load_config(directory.config)
    heads = {task.name: task for task in info.tasks}
    model = build_model(info.model)
    load_state(directory.version_folder(info.version), model)
    place = resolve_device(device)
    model.to(place)
    labels = {task.name: list(model.classes.heads[task.head].labels) for task in info.tasks}
    data = stored.data.model_copy(update={"manifest": manifest, "bags": bags, "root": None, "tasks": None, "fold": None})
    named = {name: value for name, value in labels.items() if name in _tasks_of(manifest)}
    unknown = [name for name in _tasks_of(manifest) if name not in heads]
    if unknown:
        raise ConfigError(
            f"{run}: version {info.version} has not learned the task '{unknown[0]}'", f"it knows {', '.join(heads)}"
        )
    dealt = {(task.name, slide): split for task in info.tasks for split, slides in task.slides.items() for slide in slides}
    tasks = load_tasks(data.model_copy(update={"labels": named}), dealt=dealt)
    store = BagStore(bags, info.feature_contract, assume_encoder=data.assume_encoder, cache_bytes=0)
    chosen = {task.name: task.cases(split) for task in tasks}
    scored: dict[str, Any] = {}
    with progress_bar(sum(map(len, chosen.values())), "evaluate", quiet=quiet) as advance:
        for task in tasks:
            learned = heads[task.name]
            results = evaluate_cases(model, task, learned.head, chosen[task.name], store, place, advance)
            scored[task.name] = {"cases": len(results), **score_task(results, learned.threshold, info.mode)}
    return {
        "run": info.run,
        "version": info.version,
        "split": split or "all",
        "tasks": scored,
        "mean": _mean_over_tasks(scored),
    }


def _tasks_of(manifest: Path) -> list[str]:
    from comel.manifest import read_manifest

    return read_manifest(manifest).tasks


def _mean_over_tasks(scored: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of every score over the tasks that have it."""
    result: dict[str, Any] = {}
    for entry in scored.values():
        for mode, kinds in entry.items():
            if mode == "cases":
                continue
            for kind, values in kinds.items():
                for name, value in values.items():
                    if value is not None:
                        result.setdefault(mode, {}).setdefault(kind, {}).setdefault(name, []).append(value)
    return {
        mode: {kind: {name: float(np.mean(v)) for name, v in values.items()} for kind, values in kinds.items()}
        for mode, kinds in result.items()
    }
