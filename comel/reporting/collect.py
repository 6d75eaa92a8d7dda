"""A run directory as plain data for a report. Whatever an older or unfinished run lacks is empty, never an error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comel.base.files import read_json, sha256_of_file
from comel.base.settings import load_yaml
from comel.base.text import first_line
from comel.base.units import Mode
from comel.errors import ComelError, RunError
from comel.reporting.cases import CaseTable, case_table
from comel.runs.config import RunConfig
from comel.runs.directory import RunDirectory
from comel.runs.events import read_events
from comel.runs.metrics import RunMetrics, read_metrics
from comel.runs.version import VersionInfo
from comel.scoring.case_results import read_results
from comel.scoring.continual import ScoreTable

__all__ = ["Data", "Epoch", "Report", "collect", "collect_run", "number"]

_NOT_A_MEASURE = {"time", "event", "stage", "epoch", "losses", "seconds"}


@dataclass(frozen=True)
class Epoch:
    """An epoch of training: its stage and number from 0, mean losses, the model's own measures, seconds."""

    stage: int
    epoch: int
    losses: dict[str, float]
    measures: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Data:
    """The known facts of the training data: cells of the manifest by slide, if it still is where the run found it.

    Attributes:
        manifest, bags: their paths in the run's settings; None if not set.
        checksum: SHA-256 of the manifest, or None if it does not exist.
        slides: for each task, the manifest's (slide, case, patient, label) of every row.
    """

    manifest: Path | None = None
    bags: Path | None = None
    checksum: str | None = None
    slides: dict[str, list[tuple[str, str, str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """One run.

    Attributes:
        name: a name unique among the runs of the report.
        path: the run directory.
        config: the settings; ``config_text`` is the YAML text that was read.
        mode: the run's mode.
        metrics: for an unfinished run, those of the stages that are done.
        scores: the table in ``metrics``.
        versions: ``model.json`` of every complete version, ascending.
        checksums: file name to SHA-256 of the newest version.
        epochs: the epochs in order; an epoch repeated after an interruption counts once.
        stages_planned: the planned number of stages of the newest training, or None.
        cases: test cases under the newest version, or None.
        data: the training data.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    config_text: str
    mode: Mode
    metrics: RunMetrics
    scores: ScoreTable
    versions: Sequence[VersionInfo]
    checksums: Mapping[str, str]
    epochs: Sequence[Epoch]
    stages_planned: int | None
    cases: CaseTable | None
    data: Data

    @property
    def newest(self) -> VersionInfo | None:
        """The newest complete version."""
        return self.versions[-1] if self.versions else None

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return self.metrics.strategy or str(self.section("strategy").get("name", ""))

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the settings; empty if missing."""
        return _section(self.config, name)

    def seconds(self, stage: int) -> float | None:
        """Training time of a stage: as stated by the run, otherwise the sum over its epochs."""
        stated = self.metrics.stages[stage].seconds if stage < len(self.metrics.stages) else None
        epochs = [epoch.seconds for epoch in self.epochs if epoch.stage == stage]
        return stated if stated is not None else sum(epochs) if epochs else None


def collect(paths: Sequence[Path]) -> list[Report]:
    """Read runs; each gets a unique name.

    Raises:
        RunError: a path is not a run, or a run is damaged.
    """
    folders = list(dict.fromkeys(Path(path).resolve() for path in paths))
    return [collect_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def collect_run(path: Path, name: str) -> Report:
    """Read one run.

    Raises:
        RunError: there is no such folder, it holds no run, or ``metrics.json``, ``config.yaml``, a ``model.json`` or the
            table of test cases is damaged.
    """
    run = RunDirectory(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such run", "check the path, or train one: comel train")
    if not run.config.is_file():
        raise RunError(
            f"{path}: holds no run (no config.yaml)", run.runs_inside() or "name the folder that comel train wrote to"
        )
    run.check_files()
    try:
        config = load_yaml(run.config, RunConfig, relative=False)
    except ComelError as error:
        raise RunError.damaged(run.config, error.what.removeprefix(f"{run.config}: ")) from None
    if not config:
        raise RunError.damaged(run.config, "not settings")
    text = run.config.read_text(encoding="utf-8")
    metrics = read_metrics(run.metrics)
    try:
        mode = metrics.mode or Mode(_section(config, "data").get("mode", Mode.CLASS))
    except ValueError as error:
        raise RunError.damaged(run.config, f"data.mode: {error}") from None
    versions = [run.info(version) for version in run.versions()]
    checksums: dict[str, str] = {}
    cases = None
    if versions:
        folder = run.version_folder(versions[-1].version)
        try:
            checksums = {str(name): str(value) for name, value in read_json(folder / "checksums.json").items()}
        except (OSError, ValueError, AttributeError) as error:
            raise RunError.damaged(folder / "checksums.json", first_line(error)) from None
        table = run.evaluation(versions[-1].version)
        cases = case_table(read_results(table, versions[-1]), versions[-1]) if table.is_file() else None
    events = read_events(run)
    starts = [event for event in events if event["event"] == "start"]
    planned = starts[-1].get("stages") if starts else None
    return Report(
        name=name,
        path=path,
        config=config,
        config_text=text,
        mode=mode,
        metrics=metrics,
        scores=ScoreTable.of_run(metrics),
        versions=versions,
        checksums=checksums,
        epochs=_epochs(events),
        stages_planned=planned if isinstance(planned, int) else None,
        cases=cases,
        data=_data(config),
    )


def _epochs(events: Sequence[dict[str, Any]]) -> list[Epoch]:
    found: dict[tuple[int, int], Epoch] = {}
    for event in events:
        stage, epoch = event.get("stage"), event.get("epoch")
        if event["event"] != "epoch" or not isinstance(stage, int) or not isinstance(epoch, int):
            continue
        losses = event.get("losses")
        measures = {name: value for name, value in event.items() if name not in _NOT_A_MEASURE}
        found[stage, epoch] = Epoch(
            stage,
            epoch,
            _numbers(losses if isinstance(losses, dict) else {}),
            _numbers(measures),
            number(event.get("seconds")) or 0.0,
        )
    return [found[key] for key in sorted(found)]


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): known for name, value in values.items() if (known := number(value)) is not None}


def _data(config: Mapping[str, Any]) -> Data:
    """The manifest and the bags of the settings, as far as they still exist and can be read."""
    from comel.cohort.manifest import read_manifest

    stated = _section(config, "data")
    manifest, bags, root = (Path(stated[key]) if stated.get(key) else None for key in ("manifest", "bags", "root"))
    if manifest is None or not manifest.is_file():
        return Data(manifest, bags)
    slides: dict[str, list[tuple[str, str, str, str]]] = {}
    try:
        for row in read_manifest(manifest, root=root, names=None).rows:
            slides.setdefault(row.task, []).append((row.slide_id, row.case, row.patient, row.label))
    except ComelError:
        slides = {}
    return Data(manifest, bags, sha256_of_file(manifest), slides)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest path endings that all differ."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=1) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
