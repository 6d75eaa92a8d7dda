"""A cohort's progress, read from its folder, whichever processes work on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from comel.base.files import read_json
from comel.cohort.manifest import ManifestRow
from pipelines.batch.claims import Claims
from pipelines.batch.presence import Present, read_present
from pipelines.batch.slide_records import Ledger, SlideRecord, inputs_stamp

__all__ = ["RunningSlide", "Status", "folder_status", "running_slides", "seconds_left"]


@dataclass(frozen=True)
class RunningSlide:
    """A slide in progress.

    Attributes:
        slide_id: the slide.
        host: the host.
        pid: the supervising process.
        stage: the present stage.
        tiles_done: tiles encoded.
        tiles: tiles in total, 0 if not known yet.
        since: start of the work, seconds since 1970.
    """

    slide_id: str
    host: str
    pid: int
    stage: str
    tiles_done: int
    tiles: int
    since: float


@dataclass(frozen=True)
class Status:
    """A cohort's progress.

    Attributes:
        slides: slides of the manifest.
        done: slides that have a bag with the settings of the last run.
        failed: slides that failed, by stage and reason.
        remaining: slides still to do, including those in progress.
        running: the slides in progress, on all hosts.
        tiles: tiles of the slides that are done.
        tiles_per_second: recent encoding rate, all hosts together.
        seconds_left: time until nothing remains, None if it cannot be estimated.
    """

    slides: int
    done: int
    failed: dict[str, int]
    remaining: int
    running: tuple[RunningSlide, ...]
    tiles: int
    tiles_per_second: float
    seconds_left: float | None


def folder_status(rows: Sequence[ManifestRow], out: Path) -> Status:
    """The progress of a manifest's slides in a folder, measured by the settings of the last run there."""
    state_dir = out / ".extract"
    if not state_dir.is_dir():
        return Status(len(rows), 0, {}, len(rows), (), 0, 0.0, None)
    claims = Claims(state_dir / "claims")
    try:
        present = read_present(state_dir / "workers", claims)
    finally:
        claims.close()
    running = running_slides(present)
    busy = {slide.slide_id for slide in running}
    try:
        key = str(read_json(state_dir / "run.json")["key"])
    except (OSError, ValueError, KeyError, TypeError):
        key = ""
    ledger = Ledger(state_dir / "outcomes")
    done: list[SlideRecord] = []
    failed: Counter[str] = Counter()
    for row in rows:
        outcome = ledger.read(row.slide_id)
        if outcome is None or row.slide_id in busy:
            continue
        if outcome.still_holds(row, key, out):
            done.append(outcome)
        elif outcome.state == "failed" and outcome.has_key(key) and outcome.inputs == inputs_stamp(row):
            failed[kind_of_failure(outcome, row)] += 1
    remaining, tiles = len(rows) - len(done) - failed.total(), sum(outcome.tiles for outcome in done)
    rate = sum(process.tiles_per_second for process in present)
    left = seconds_left(remaining, len(done), tiles, running, rate)
    return Status(len(rows), len(done), dict(failed.most_common()), remaining, running, tiles, rate, left)


def running_slides(present: Iterable[Present]) -> tuple[RunningSlide, ...]:
    """The slides of all processes, the longest running first."""
    found = [
        RunningSlide(slide.slide_id, process.owner.host, process.owner.pid, slide.stage, slide.done, slide.total, slide.since)
        for process in present
        for slide in process.running
    ]
    return tuple(sorted(found, key=lambda slide: slide.since))


def seconds_left(
    remaining: int, done: int, tiles: int, running: Sequence[RunningSlide], tiles_per_second: float
) -> float | None:
    """Time for the remaining slides, if they have as many tiles as those that are done; None if unknown."""
    if remaining == 0:
        return 0.0
    known = [slide.tiles for slide in running if slide.tiles]
    if tiles_per_second <= 0 or done + len(known) == 0:
        return None
    mean = (tiles + sum(known)) / (done + len(known))
    still = mean * (remaining - len(known)) + sum(slide.tiles - slide.tiles_done for slide in running if slide.tiles)
    return max(still, 0.0) / tiles_per_second


def kind_of_failure(outcome: SlideRecord, row: ManifestRow) -> str:
    """Stage and reason without the slide's name, so that equal failures of many slides count together."""
    reason = outcome.reason
    for name in (str(row.path), row.path.name, row.slide_id):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "", reason)
    return f"{outcome.stage}: {reason.lstrip(': ')}"
