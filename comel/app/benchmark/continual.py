"""``comel bench continual`` as a function: the stream of a suite, the rows on it, the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from comel.app.benchmark.composite import CompositeSettings, make_composite
from comel.app.benchmark.context import ContextSettings, make_context
from comel.app.benchmark.crchisto import CrchistoSettings, make_crchisto
from comel.app.benchmark.features import FeatureSettings, make_features
from comel.app.benchmark.rows import Row, load_benchmark
from comel.app.benchmark.runner import run_benchmark
from comel.app.benchmark.table import write_tables
from comel.base.files import read_json, sha256_of_file, write_json
from comel.base.progress import progress_bar
from comel.base.registry import nearest
from comel.base.settings import parse_section
from comel.base.units import Mode
from comel.base.version import comel_version
from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError, RunError

__all__ = ["run_continual"]

_SETTINGS: dict[str, type[BaseModel]] = {
    "features": FeatureSettings,
    "context": ContextSettings,
    "composite": CompositeSettings,
    "crchisto": CrchistoSettings,
}


def run_continual(
    suite: str,
    out: Path,
    *,
    seeds: Iterable[int],
    rows: Sequence[str] | Callable[[dict[str, Any]], Sequence[Row]] | None = None,
    slides: Path | None = None,
    root: Path | None = None,
    archive: Path | None = None,
    config: Path | None = None,
    overrides: Iterable[str] = (),
    jobs: int = 2,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run a suite; finished work under ``out/SUITE`` is kept.

    Args:
        suite: features, context, composite or crchisto.
        out: folder; a suite has its own in it.
        seeds: of the streams.
        rows: names of rows or groups, default all; or what makes rows of its own from the suite's model settings.
        slides: composite: manifest of real slides, which are extracted first.
        root: composite: folder that the manifest's relative paths start from.
        archive: crchisto: the file of cells.
        config: replaces ``configs/benchmark.yaml``.
        overrides: ``make.KEY=VALUE``, ``model.KEY=VALUE``, ``strategy.KEY=VALUE`` or ``trainer.KEY=VALUE`` for the suite.
        jobs: trainings at the same time.
        quiet: print no progress.

    Returns:
        The content of ``results.json``; ``table.md`` and ``results.csv`` are beside it.

    Raises:
        ComelError: a setting, a slide or the archive cannot be used, or the folder has streams or runs of other settings.
    """
    if suite not in _SETTINGS:
        raise ConfigError(f"no suite '{suite}'", nearest(suite, list(_SETTINGS)))
    benchmark = load_benchmark(suite, None if callable(rows) else rows, config, overrides)
    if callable(rows):
        benchmark = replace(benchmark, rows=tuple(rows(benchmark.model)))
    chosen: BaseModel = parse_section(_SETTINGS[suite], benchmark.make, f"{suite}: make")
    benchmark.check()
    folder = Path(out) / suite
    source = _Source(suite, slides, root, archive, benchmark.extract, folder / "slides", quiet)
    made_from = source.fingerprint()

    def make(seed: int) -> dict[str, Any]:
        stream = folder / f"seed-{seed}" / "stream"
        settings = chosen.model_copy(update={"seed": seed})
        if not _is_made(stream, {"suite": suite, "make": settings.model_dump(mode="json"), **made_from}):
            source.make(stream, settings)
        mode = Mode.DOMAIN if suite == "crchisto" else Mode.CLASS
        return {"manifest": str((stream / "manifest.csv").resolve()), "bags": str((stream / "bags").resolve()), "mode": mode}

    folds = chosen.folds if isinstance(chosen, CrchistoSettings) else None
    results = run_benchmark(benchmark, make, seeds, folder, folds=folds, jobs=jobs, quiet=quiet)
    described = {"make": chosen.model_dump(mode="json", exclude={"seed"}), **made_from}
    described |= {key: getattr(benchmark, key) for key in ("model", "strategy", "trainer")}
    return write_tables(folder, suite, {"comel": comel_version(), **described}, results)


def _is_made(stream: Path, settings: dict[str, Any]) -> bool:
    """Whether the stream exists; its settings are written beside it before it is made.

    Raises:
        RunError: the folder has a stream of other settings.
    """
    path, manifest = stream / "settings.json", stream / "manifest.csv"
    if not path.exists() and not manifest.exists():
        write_json(path, settings)
    if not path.exists() or read_json(path) != settings:
        raise RunError(
            f"{stream}: holds a stream of other settings or other slides", "choose another --out, or delete the folder"
        )
    return manifest.exists()


@dataclass
class _Source:
    """The sources of the streams of all seeds."""

    suite: str
    slides: Path | None
    root: Path | None
    archive: Path | None
    extract: dict[str, Any]
    bags: Path
    quiet: bool

    def __post_init__(self) -> None:
        if self.suite == "composite" and self.slides is None:
            remedy = "give --slides manifest.csv, with 'normal' and other labels in a task"
            raise ConfigError("composite: no slides are named", remedy)
        if self.suite == "crchisto" and self.archive is None:
            raise ConfigError("crchisto: no cells are named", "give --archive crchisto.npz")

    def fingerprint(self) -> dict[str, Any]:
        """What a stream depends on besides its own settings."""
        if self.suite == "composite":
            assert self.slides is not None
            read_manifest(self.slides, root=self.root)
            return {"slides": sha256_of_file(self.slides), "extract": self.extract}
        if self.suite == "crchisto":
            assert self.archive is not None
            if not self.archive.is_file():
                raise ConfigError(f"{self.archive}: no such file", "give the .npz of CRCHistoPhenotypes cells")
            return {"archive": sha256_of_file(self.archive)}
        return {}

    def make(self, stream: Path, settings: Any) -> None:
        """Make the stream of a seed; real slides are extracted first if they are not yet."""
        if self.suite == "features":
            make_features(stream, settings)
        elif self.suite == "context":
            make_context(stream, settings)
        elif self.suite == "composite":
            assert self.slides is not None
            self._extract(self.slides)
            make_composite(stream, self.slides, self.bags, settings, root=self.root)
        else:
            assert self.archive is not None
            with progress_bar(None, "encode", quiet=self.quiet) as advance:
                make_crchisto(stream, self.archive, settings, advance)

    def _extract(self, slides: Path) -> None:
        from comel.app import api

        report = api.extract(slides, self.bags, root=self.root, quiet=self.quiet, **self.extract)
        if report.failed:
            failure = report.failures[0]
            remedy = f"{failure.remedy}; all failures: {self.bags / 'failures.csv'}"
            raise ConfigError(f"{failure.slide}: {failure.reason}", remedy)
