"""Which slides of a cohort are to be worked on: decided by names, sizes and times, without reading a slide or a bag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from comel.cohort.manifest import ManifestRow
from pipelines.batch.slide_records import Ledger, SlideRecord
from pipelines.batch.supervise import SlideTask

__all__ = ["Plan", "plan_slides"]


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        kept: outcomes of slides that are done.
        tasks: the slides to work on; those that failed last time come last, so that they keep no other slide waiting.
    """

    kept: list[SlideRecord]
    tasks: list[SlideTask]


def plan_slides(
    rows: Iterable[ManifestRow], out: Path, ledger: Ledger, key: str, *, again: bool = False, only_failed: bool = False
) -> Plan:
    """Plan a run; a read and four stats a slide.

    Args:
        rows: the slides.
        out: the folder of the bags.
        ledger: their outcomes so far.
        key: of this run's settings and encoder.
        again: believe no outcome.
        only_failed: leave out what did not fail.
    """
    kept: list[SlideRecord] = []
    fresh: list[SlideTask] = []
    failed: list[SlideTask] = []
    for row in rows:
        outcome = ledger.read(row.slide_id)
        if outcome is not None and outcome.state == "failed":
            failed.append(SlideTask(row, outcome))
        elif only_failed:
            continue
        elif outcome is not None and not again and outcome.still_holds(row, key, out):
            kept.append(outcome)
        else:
            fresh.append(SlideTask(row, outcome))
    return Plan(kept, fresh + failed)
