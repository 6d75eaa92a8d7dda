"""The slides of a cohort to work on: decided by names, sizes and times, without reading a slide or a bag."""

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
    """The plan of a run.

    Attributes:
        kept: outcomes of slides that are done.
        tasks: the slides to work on; those that failed last time come last, so that no other slide waits for them.
    """

    kept: list[SlideRecord]
    tasks: list[SlideTask]


def plan_slides(
    rows: Iterable[ManifestRow], out: Path, ledger: Ledger, key: str, *, again: bool = False, only_failed: bool = False
) -> Plan:
    """Plan a run, with one read and four stats per slide.

    Args:
        rows: the slides.
        out: the folder of the bags.
        ledger: their outcomes so far.
        key: the key of this run's settings and encoder.
        again: ignore all outcomes.
        only_failed: leave out slides that did not fail.
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
