"""The model card: a model's purpose, data, scores and limitations, as Markdown.

The headings follow Mitchell et al., "Model cards for model reporting" (FAT* 2019), as far as a run has the facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from comel.prediction.prediction import NOTICE
from comel.reporting.cohort import SPLITS, cohort, packages, unreadable_cohort
from comel.reporting.collect import Report
from comel.reporting.scores import headline, statistics
from comel.reporting.tables import MISSING, count
from comel.reporting.training import total_seconds
from comel.reporting.vocabulary import KINDS, STATISTICS, in_order, score_name

__all__ = ["model_cards"]

_ABOUT = "<!-- Written by comel report, which overwrites it each time: keep your own text in another file. -->"
_FEW_CASES = 30


def model_cards(reports: Sequence[Report]) -> str:
    """One card per run, one after another."""
    text = "\n---\n\n".join(_card(report) for report in reports)
    return f"{_ABOUT}\n\n{text}".encode("utf-8", "replace").decode("utf-8")


def _card(report: Report) -> str:
    blocks = [
        f"# Model card: {_plain(report.name)}",
        f"**{NOTICE}**",
        *([] if report.metrics.finished else ["**The training is not finished; these are the results so far.**"]),
        "## Model",
        _list(_model(report)),
        "## Intended use",
        _list(_use(report)),
        "## Data",
        *_data(report),
        "## Scores",
        *_scores(report),
        "## Limitations",
        _list(_limitations(report)),
        "## Training",
        _list(_training(report)),
        "## Versions and checksums",
        _table(["what", "version"], packages()),
        *([_table(["file", "SHA-256"], report.checksums.items())] if report.checksums else []),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _model(report: Report) -> list[str]:
    lines = [
        f"name: {report.name}",
        f"model: {report.section('model').get('name', 'not stated')}",
        f"strategy: {report.strategy or 'not stated'}",
        f"mode: {report.mode}",
    ]
    if report.newest is not None:
        heads = report.newest.model.get("heads", [])
        lines.append(f"version {report.newest.version} of run {report.newest.run}, published {report.newest.created}")
        lines += [f"classes of {head['name']}: {', '.join(head['labels'])}" for head in heads]
        contract = report.newest.feature_contract
        tile = f"tiles of {contract.tile_size or '?'} px at {contract.mpp or '?'} µm per px"
        lines.append(f"input: {tile}, {contract.dimension} features each, encoder {contract.encoder or 'not stated'}")
    return lines


def _use(report: Report) -> list[str]:
    tasks = ", ".join(report.metrics.tasks) or "no task yet"
    return [
        f"Research on the classification of whole-slide images and on where the evidence lies, for: {tasks}.",
        "Not for diagnosis, not for triage, and not for any decision on a patient.",
        "Not for tissue, stains, scanners or labels other than those of the training data.",
    ]


def _data(report: Report) -> list[str]:
    rows = []
    for row in cohort(report):
        patients = row.patients or (None,) * len(SPLITS)
        cells = [f"{slides} / {count(who)}" for slides, who in zip(row.slides, patients, strict=True)]
        rows.append((row.task, row.label or "all labels", *cells))
    why = unreadable_cohort(report)
    facts = [f"manifest: {report.data.manifest or 'not stated'}"]
    if report.data.checksum:
        facts.append(f"SHA-256 of the manifest as it is now: {report.data.checksum}")
    table = [_table(["task", "label", *(f"{split}: slides / patients" for split in SPLITS)], rows)] if rows else []
    return [*table, _list([*facts, *([why] if why else [])])]


def _scores(report: Report) -> list[str]:
    table = report.scores
    parts = [_table(["score", "value"], headline(report))]
    for kind, mode in table.groups:
        lines = [(score_name(name), *statistics(table, kind, mode, name)) for name in in_order(kind, table.names(kind, mode))]
        rows = [line for line in lines if any(cell != MISSING for cell in line[1:])]
        if rows:
            parts.append(f"{KINDS.get(kind, kind)} scores, {mode}:")
            parts.append(_table(["score", *STATISTICS.values()], rows))
    parts.append("Means over tasks on test cases that were never trained on; intervals hold 95 % of resamples of patients.")
    return parts


def _limitations(report: Report) -> list[str]:
    metrics, lines = report.metrics, []
    if report.cases is not None:
        for task in metrics.tasks:
            cases = report.cases.tasks.count(task)
            if cases < _FEW_CASES:
                lines.append(f"{task} was tested on {cases} cases only, so its scores are uncertain.")
    if not report.scores.has_intervals:
        lines.append("The scores come without intervals.")
    defaults = [task.name for task in report.newest.tasks if task.threshold_chosen_on == "default"] if report.newest else []
    if defaults:
        lines.append(f"No instance labels chose the instance threshold of {', '.join(defaults)}: it is the default.")
    defined = {row.kind for row in report.scores.rows if row.value is not None}
    undefined = dict.fromkeys(row.kind for row in report.scores.rows if row.kind not in defined)
    lines += [f"No {kind} score is defined, so that performance is unknown." for kind in undefined]
    lines.append("All scores are on held-out cases of the training cohort; no other cohort was tested.")
    lines.append("Continual learning may cost accuracy on earlier tasks: see forgetting above.")
    return lines


def _training(report: Report) -> list[str]:
    trainer = report.section("trainer")
    lines = [f"{key}: {trainer[key]}" for key in ("epochs", "lr", "weight_decay", "seed", "precision") if key in trainer]
    options = {key: value for key, value in report.section("strategy").items() if key != "name"}
    lines += [f"{report.strategy}, {key}: {value}" for key, value in options.items()]
    lines.append(f"tasks in order: {', '.join(report.metrics.tasks) or 'none yet'}")
    seconds = total_seconds(report)
    if seconds is not None:
        lines.append(f"training time: {seconds:.1f} s")
    stages = report.metrics.stages
    if stages and stages[-1].trained_parameters is not None:
        lines.append(f"parameters trained in the last stage: {count(stages[-1].trained_parameters)}")
    old = [stage.old_data_bytes for stage in stages if stage.old_data_bytes is not None]
    if old:
        lines.append(f"data of earlier tasks kept: {count(max(old))} bytes")
    return lines


def _plain(text: object) -> str:
    """Text on one line, escaped for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~!])", r"\\\1", " ".join(str(text).split()))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell) if n == 1 else _plain(cell) for cell in line)} |" for n, line in enumerate(lines)
    )
