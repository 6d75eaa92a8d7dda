"""Cohorts extracted in the process of the test, by an encoder that exists in it alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comel.cohort.manifest import read_manifest
from pipelines.batch.claims import Claims
from pipelines.batch.presence import Presence, Present
from pipelines.batch.run import CohortReport, CohortRun, SlideOutcome
from pipelines.batch.supervise import Settled, SlideTask, Supervisor
from pipelines.batch.work import Described, SlideWork, describe
from pipelines.extraction.settings import ExtractSettings
from pipelines.patch_encoders.base import PatchEncoder
from tests.calls_here import InThisProcess


@dataclass(frozen=True)
class Given:
    """A loader that has its encoder already; in another process, a copy of it."""

    encoder: PatchEncoder

    def __call__(self, name: str, device: str, precision: str) -> PatchEncoder:
        return self.encoder


class InProcess:
    """A pool that works on one slide after another in this process."""

    def __init__(self) -> None:
        self._presence: Presence | None = None

    def describe(self, work: SlideWork) -> Described:
        return describe(work)

    def work(self, work: SlideWork, tasks: Sequence[SlideTask]) -> Generator[Settled, None, None]:
        claims = Claims(work.state_dir / "claims", expiry=work.expiry)
        self._presence = Presence(work.state_dir / "workers", claims, stall_limit=work.stall_limit)
        try:
            supervisor = Supervisor(work, InThisProcess(), claims, self._presence, threading.Event())
            for task in tasks:
                yield supervisor.settle(task)
        finally:
            self._presence.close()
            claims.close()

    def present(self) -> list[Present]:
        return [self._presence.present()] if self._presence is not None else []

    def stop(self) -> None:
        """Nothing goes on in the background."""

    def close(self) -> None:
        """There is nothing to end."""


def extract_cohort(
    manifest: Path,
    out: Path,
    settings: ExtractSettings,
    *,
    encoder: PatchEncoder,
    root: Path | None = None,
    progress: Callable[[SlideOutcome], None] | None = None,
    **options: Any,
) -> CohortReport:
    """Extract every slide of a manifest here, by this encoder."""
    rows = read_manifest(manifest, root=root).rows
    return CohortRun(rows, out, settings, InProcess(), encoder_loader=Given(encoder), **options).run(progress)
