"""A model on labelled cases: its answers, the choices on validation cases, and the scores of a version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comel.cohort.bags import BagStore
from comel.cohort.classes import ClassSpace
from comel.cohort.tasks import Case, TaskData
from comel.prediction.judge import Judge
from comel.runs.version import TaskInfo
from comel.scoring.calibration import fit_temperature
from comel.scoring.case_results import CaseResult, write_results
from comel.scoring.intervals import score_cases
from comel.scoring.metrics import choose_threshold

__all__ = ["choose_instance_threshold", "choose_on_validation", "choose_temperature", "evaluate", "evaluate_cases"]


def evaluate_cases(
    judge: Judge,
    task: TaskData,
    head: int,
    cases: Iterable[Case],
    store: BagStore,
    advance: Callable[..., None] = lambda steps=1, text="": None,
) -> list[CaseResult]:
    """The judge's answers for cases of one task, with the task unknown and given (head number ``head``).

    A case without tissue is left out.
    """
    results = []
    for case in cases:
        bag = store.read(case)
        advance()
        look = judge.look(bag)
        if look is None:
            continue
        classes, free, given = judge.classes, look.free(), look.given(head)
        columns, column = classes.columns(head), classes.column(head, case.label)
        raw, raw_within = _without_temperature(classes, free.probabilities, look.logits, head)
        labels = bag.labels
        if labels is None and case.label == classes.heads[head].negative:
            labels = np.zeros(len(bag), np.int8)  # nothing to annotate on a slide without a finding
        results.append(
            CaseResult(
                case=case,
                task=task.name,
                column=column,
                positive=classes.positive[column],
                probabilities=free.probabilities,
                within=given.probabilities,
                raw_probabilities=raw,
                raw_within=raw_within,
                head_logits=look.logits[columns],
                place=column - columns.start,
                scores=free.scores,
                scores_given=given.scores,
                labels=None if labels is None else np.asarray(labels),
                coords=None if bag.coords is None else np.asarray(bag.coords),
                distance=free.distance,
                classes=classes,
            )
        )
    return results


def _without_temperature(
    classes: ClassSpace, probabilities: np.ndarray, logits: np.ndarray, head: int
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities over all classes and within a head without temperatures, (C,) each.

    A temperature moves probability only within its head, so each head keeps its total and distributes it by its own logits.
    """
    free, given = np.zeros_like(probabilities), np.zeros_like(probabilities)
    for number in range(len(classes.heads)):
        columns = classes.columns(number)
        shares = np.exp(logits[columns] - logits[columns].max())
        free[columns] = probabilities[columns].sum() * shares / shares.sum()
        if number == head:
            given[columns] = shares / shares.sum()
    return free, given


def choose_temperature(results: Sequence[CaseResult]) -> float:
    """The temperature of a head from its tasks' validation cases; see :func:`comel.scoring.calibration.fit_temperature`."""
    logits = [result.head_logits for result in results if result.head_logits is not None]
    return fit_temperature(np.array(logits), [result.place for result in results])


def choose_instance_threshold(results: Sequence[CaseResult]) -> tuple[float, str]:
    """The instance threshold from validation cases, and what it was chosen on; 0.5 if they have no instance labels."""
    labelled = [(result.scores_given, result.labels) for result in results if result.labels is not None]
    if not labelled:
        return 0.5, "default"
    scores = np.concatenate([scores for scores, _ in labelled])
    labels = np.concatenate([labels for _, labels in labelled])
    if len(np.unique(labels[labels >= 0])) < 2:
        return 0.5, "default"
    return choose_threshold(scores, labels), "validation"


def choose_on_validation(
    judge: Judge, tasks: Sequence[TaskData], infos: Sequence[TaskInfo], known_heads: Iterable[int], store: BagStore
) -> None:
    """Choose temperature and instance threshold of the tasks just learned, and write them into their infos and the model.

    Tasks that share a head share its temperature. A model may move its instance scores to a threshold once, when the head is
    new: later tasks of the same head choose theirs on the unshifted scores, so that the earlier tasks' thresholds stay valid.

    Args:
        judge: judge of the model after training.
        tasks: the tasks just learned.
        infos: the version's entry for each of them.
        known_heads: numbers of the heads that earlier stages have trained.
        store: the store that reads the bags.
    """
    known = set(known_heads)
    of_name = {task.name: task for task in tasks}

    def validate(info: TaskInfo) -> list[CaseResult]:
        task = of_name[info.name]
        return evaluate_cases(judge, task, info.head, task.val, store)

    for head in dict.fromkeys(info.head for info in infos):
        members = [info for info in infos if info.head == head]
        temperature = choose_temperature([result for info in members for result in validate(info)])
        judge.model.temper(head, temperature)
        results = {info.name: validate(info) for info in members}
        shared, chosen_on = choose_instance_threshold([result for info in members for result in results[info.name]])
        if head not in known:
            shared = judge.model.calibrate(head, shared)
            results = {info.name: validate(info) for info in members} if len(members) > 1 else results
        for info in members:
            info.temperature = temperature
            info.threshold, info.threshold_chosen_on = shared, chosen_on
            if len(members) > 1:
                info.threshold, info.threshold_chosen_on = choose_instance_threshold(results[info.name])


def evaluate(
    run: Path,
    manifest: Path,
    bags: Path,
    *,
    version: int | None = None,
    split: str | None = "test",
    tasks: Sequence[str] | None = None,
    table: Path | None = None,
    device: str = "auto",
    root: Path | None = None,
    assume_encoder: str | None = None,
    skip_missing: bool = False,
    trust: Iterable[str | Path] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Score a version on a manifest's cases, with the version's thresholds and temperatures.

    Args:
        run: the run directory.
        manifest: the cases, of tasks that the version has learned.
        bags: their feature files.
        version: default the current one.
        split: train, val or test as assigned in training to slides and their patients, or as in the manifest for those that
            it did not see (test if not stated); None for every case.
        tasks: score these tasks only; default all of the manifest.
        table: CSV of the predictions of single cases to write.
        device: auto, cpu, cuda.
        root: folder that the manifest's relative paths start from; default its own.
        assume_encoder: encoder of feature files that do not state one; default the run's own.
        skip_missing: leave out slides without features instead of stopping.
        trust: files of code that the run may load (:class:`comel.base.trust.Trust`).
        quiet: print no progress.

    Returns:
        ``{"run", "version", "split", "notes", "tasks", "mean", "intervals"}``; see
        :meth:`comel.scoring.continual.ScoreTable.nested_scores`. The notes say which slides were left out or moved to another
        split.

    Raises:
        ComelError: run, manifest or bags cannot be used, a task is not known to the version, or there is no case to score.
    """
    from comel.base.progress import progress_bar, say
    from comel.base.trust import Trust
    from comel.cohort.checks import with_features
    from comel.cohort.manifest import read_manifest
    from comel.cohort.seen import splits_to_evaluate
    from comel.cohort.tasks import load_tasks, named_in
    from comel.errors import ManifestError
    from comel.runs.config import load_config
    from comel.runs.directory import RunDirectory

    run, bags = Path(run), Path(bags)
    directory = RunDirectory(run)
    info = directory.info(version)
    stored = load_config(directory.config)
    learned = {task.name: task for task in info.tasks}
    trusted = Trust(trust)
    judge = Judge.open(directory, info, device, trusted)
    names = named_in(stored.data).union(learned, *(head.labels for head in judge.classes.heads))
    cohort = read_manifest(manifest, root=root, names=names)
    named = _tasks_to_score(tasks or cohort.tasks, learned, f"{run}: version {info.version}")
    labels = {name: list(judge.classes.heads[learned[name].head].labels) for name in named}
    data = stored.data.model_copy(
        update={"manifest": cohort.path, "bags": bags, "root": root, "tasks": named, "fold": None, "labels": labels}
        | ({} if assume_encoder is None else {"assume_encoder": assume_encoder})
    )
    splits, moved = splits_to_evaluate(cohort, info.seen, named)
    loaded = load_tasks(cohort, data, splits=splits)
    wanted = ("train", "val", "test") if split is None else (split,)
    loaded, left_out = with_features(loaded, bags, splits=wanted, skip_missing=skip_missing)
    notes = [*trusted.notes, *(moved if split is not None else ()), *left_out]
    for note in notes:
        say(f"evaluate: {note}", quiet=quiet)
    store = BagStore(bags, info.feature_contract, assume_encoder=data.assume_encoder, cache_bytes=0)
    chosen = {task.name: task.cases(split) for task in loaded}
    if not any(chosen.values()):
        raise ManifestError(
            f"{cohort.path.name}: there is no {split or 'labelled'} case{f' ({moved[0]})' if moved else ''}",
            "name cases that the run has not seen, or score others: --split",
        )
    results: dict[str, list[CaseResult]] = {}
    with progress_bar(sum(map(len, chosen.values())), "evaluate", quiet=quiet) as advance:
        for task in loaded:
            head = learned[task.name].head
            results[task.name] = evaluate_cases(judge, task, head, chosen[task.name], store, advance)
    thresholds = {name: learned[name].threshold for name in results}
    if table is not None:
        write_results(table, [result for cases in results.values() for result in cases], judge.classes.names)
    return {
        "run": info.run,
        "version": info.version,
        "split": split or "all",
        "notes": notes,
        **score_cases(results, thresholds, info.mode).nested_scores({name: len(cases) for name, cases in results.items()}),
    }


def _tasks_to_score(tasks: Sequence[str], learned: Mapping[str, TaskInfo], who: str) -> list[str]:
    """The tasks, each once; every one must be known to the version."""
    from comel.errors import ConfigError

    names = list(dict.fromkeys(tasks))
    for name in names:
        if name not in learned:
            known = [name for name in names if name in learned]
            remedy = f"give {' '.join(f'--task {name}' for name in known)}" if known else f"it knows {', '.join(learned)}"
            raise ConfigError(f"{who} has not learned the task '{name}'", remedy)
    return names
