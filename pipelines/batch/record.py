"""The reports in a cohort's folder, ``failures.csv`` and ``extract.json``, made from the outcomes of all hosts."""

from __future__ import annotations

import csv
import io
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from comel.base.files import write_json, write_text
from comel.base.version import comel_version
from comel.cohort.manifest import ManifestRow
from pipelines.batch.claims import Claims
from pipelines.batch.slide_records import Ledger, SlideRecord

__all__ = ["Failure", "read_failures", "write_record"]

_CLAIM = ".record"
_PATIENCE_SECONDS = 5.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A slide that failed: a row of ``failures.csv``."""

    slide: str
    stage: str
    reason: str
    remedy: str

    @classmethod
    def of(cls, outcome: SlideRecord) -> Failure:
        """The row of a failed slide."""
        return cls(outcome.slide_id, outcome.stage, outcome.reason, outcome.remedy)


def read_failures(path: Path) -> list[Failure]:
    """The rows of a ``failures.csv``; empty if there is no such file or it has a different layout."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Failure(**row) for row in rows if set(row) == set(Failure.__dataclass_fields__)]


def write_record(
    out: Path, rows: Sequence[ManifestRow], facts: dict[str, Any], key: str, ledger: Ledger, claims: Claims
) -> None:
    """Rewrite both files. Several hosts may do so, under a claim, so that the last writer has seen all other results.

    Args:
        out: the folder of the bags.
        rows: the manifest's slides, which ``extract.json`` describes; ``failures.csv`` has every slide of the folder.
        facts: the run's settings and encoder.
        key: the run's key; outcomes of other settings count as remaining.
        ledger: the outcomes.
        claims: the folder's claims.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    try:
        while (claim := claims.take(_CLAIM)) is None and time.monotonic() < until:
            time.sleep(0.1)
        if claim is None:
            return  # a process that holds it for this long is about to write the same
        try:
            outcomes = ledger.all()
            _write_failures(out / "failures.csv", outcomes)
            write_json(out / "extract.json", {**facts, **_cohort(rows, outcomes, key), "versions": _versions()})
        finally:
            claims.release(claim)
    except OSError as error:
        # On a full disk the report of the run still names the failures.
        _logger.warning("%s: failures.csv and extract.json cannot be written: %s", out, error)


def _write_failures(path: Path, outcomes: dict[str, SlideRecord]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Failure.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(Failure.of(outcome)) for outcome in outcomes.values() if outcome.state == "failed")
    write_text(path, stream.getvalue())


def _cohort(rows: Sequence[ManifestRow], outcomes: dict[str, SlideRecord], key: str) -> dict[str, Any]:
    slides: dict[str, dict[str, Any]] = {}
    for row in rows:
        outcome = outcomes.get(row.slide_id)
        if outcome is None or not outcome.has_key(key):
            slides[row.slide_id] = {"state": "remaining"}
        else:
            slides[row.slide_id] = {
                "state": outcome.state,
                "tiles": outcome.tiles,
                "seconds": outcome.seconds,
                "notes": list(outcome.notes),
            }
    counts = {state: sum(slide["state"] == state for slide in slides.values()) for state in ("done", "failed", "remaining")}
    return {"counts": {**counts, "tiles": sum(slide.get("tiles", 0) for slide in slides.values())}, "slides": slides}


def _versions() -> dict[str, str]:
    packages = ("torch", "openslide-python", "openslide-bin", "numpy", "h5py")
    return {
        "python": platform.python_version(),
        "comel": comel_version(),
        **{name: metadata.version(name) for name in packages},
    }
