"""A cohort of slides to a folder of bags, by one machine or several; it may be stopped at any time and started again.

A bag that exists is complete (temporary name, verified, renamed). It is kept if its settings, its slide's fingerprint and
its checksum are unchanged. This is checked once and recorded with sizes and times of the files, so the next
run reads a bag only if one of these has changed.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from comel.base.text import listed
from comel.cohort.manifest import ManifestRow
from pipelines.batch.claims import EXPIRY_SECONDS, Claims
from pipelines.batch.interrupts import interruptible
from pipelines.batch.plan import plan_slides
from pipelines.batch.pool import Pool
from pipelines.batch.presence import read_present, remove_absent
from pipelines.batch.record import Failure, read_failures, write_record
from pipelines.batch.runs import RunMarker, remove_old_markers
from pipelines.batch.slide_records import Ledger
from pipelines.batch.status import Status, running_slides, seconds_left
from pipelines.batch.supervise import Settled, SlideTask
from pipelines.batch.work import STALL_SECONDS, Described, EncoderLoader, SlideWork
from pipelines.extraction.regions import absent_class, named_classes
from pipelines.extraction.settings import ExtractSettings
from pipelines.patch_encoders import load_encoder
from pipelines.tissue.own import unclaimed_tissue

__all__ = ["RUN_OPTIONS", "CohortReport", "CohortRun", "Failure", "SlideOutcome", "read_failures"]

RUN_OPTIONS = {"device", "force", "verify", "retry_failed", "wait", "time_limit", "worker_memory"}
"""A user's options for a run, besides the place of the work and :class:`ExtractSettings`."""

_logger = logging.getLogger(__name__)

_STALE_SECONDS = 3600.0
_RECORD_SECONDS = 60.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class SlideOutcome:
    """The outcome of one slide of the manifest.

    Attributes:
        slide_id: the slide.
        state: done now, skipped because it was complete, elsewhere: done meanwhile by another run, or failed.
        tiles: rows of its bag.
        notes: remarks for the user.
        failure: why it failed.
    """

    slide_id: str
    state: Literal["done", "skipped", "elsewhere", "failed"]
    tiles: int = 0
    notes: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class CohortReport:
    """The result of a run.

    Attributes:
        done: slides extracted.
        skipped: slides that were already complete.
        failed: slides that failed, here or in another run on the same folder meanwhile.
        tiles: tiles encoded in this run.
        seconds: time this run took.
        failures: the slides that failed.
        elsewhere: slides that another run on the same folder extracted meanwhile.
        left: slides that another run works on, if this one does not wait.
    """

    done: int
    skipped: int
    failed: int
    tiles: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    elsewhere: int = 0
    left: int = 0


class CohortRun:
    """One run over a cohort. While :meth:`run` works in one thread, another may ask for :meth:`status`.

    Args:
        rows: the slides.
        out: the folder of the bags.
        settings: see :class:`ExtractSettings`.
        pool: the pool that does the work; it is closed at the end.
        device: see :func:`pipelines.patch_encoders.load_encoder`.
        force: redo complete slides too.
        verify: read and check every existing bag, whatever is recorded.
        retry_failed: work only on slides that failed.
        wait: wait until slides that others work on are done, or take them over if those die.
        time_limit: most seconds that a slide may take.
        stall_limit: most seconds that a slide may take without a sign of progress.
        worker_memory: most GiB that the process of a worker may use (Linux); a slide that needs more fails.
        expiry: see :class:`pipelines.batch.claims.Claims`.
        encoder_loader: see :class:`pipelines.batch.work.SlideWork`.
    """

    def __init__(
        self,
        rows: Sequence[ManifestRow],
        out: Path,
        settings: ExtractSettings,
        pool: Pool,
        *,
        device: str = "auto",
        force: bool = False,
        verify: bool = False,
        retry_failed: bool = False,
        wait: bool = True,
        time_limit: float | None = None,
        stall_limit: float = STALL_SECONDS,
        worker_memory: float | None = None,
        expiry: float = EXPIRY_SECONDS,
        encoder_loader: EncoderLoader = load_encoder,
    ) -> None:
        self._rows, self._pool = rows, pool
        self._work = SlideWork(
            out=Path(out),
            settings=settings,
            device=device,
            run=secrets.token_hex(8),
            force=force,
            time_limit=time_limit,
            stall_limit=stall_limit,
            worker_memory=worker_memory,
            expiry=expiry,
            encoder_loader=encoder_loader,
        )
        self._verify, self._retry_failed, self._wait = verify, retry_failed, wait
        self._ledger = Ledger(self._work.state_dir / "outcomes")
        self._outcomes: dict[str, SlideOutcome] = {}
        self._slides = len(rows)
        self._awaited: Claims | None = None

    def run(self, progress: Callable[[SlideOutcome], None] | None = None) -> CohortReport:
        """Run the extraction.

        Writes ``<slide_id>.h5``, ``overlays/<slide_id>.png``, ``failures.csv`` (slide, stage, reason, remedy) and
        ``extract.json``. A slide that fails is listed in ``failures.csv`` and the next one follows; once it succeeds it
        is removed from that file.

        Args:
            progress: called with the outcome of each slide.

        Raises:
            ConfigError: the encoder or the device cannot be used.
            OutputFull: ``out`` is full; what it has is complete.
            KeyboardInterrupt: Ctrl-C or SIGTERM; what ``out`` has is complete.
        """
        started = time.monotonic()
        state_dir = self._work.state_dir
        claims = Claims(state_dir / "claims", expiry=self._work.expiry)
        marker: RunMarker | None = None
        try:
            with interruptible():
                _remove_stale(self._work.out, claims)
                marker = RunMarker(state_dir, self._work.run)
                described = self._pool.describe(self._work)
                if (note := described.encoder["note"]) is not None:
                    _logger.warning("%s", note)
                self._work = replace(self._work, key=described.key)
                self._warn_of_unclaimed_tissue()
                marker.enter(described.key, self._facts(described), claims)
                try:
                    left = self._work_off(claims, described, progress or (lambda outcome: None))
                    self._warn_of_absent_classes()
                finally:
                    self._pool.stop()
                    self._record(described, claims)
        finally:
            self._pool.close()
            if marker is not None:
                marker.close()
            claims.close()
        return self._report(left, time.monotonic() - started)

    def _warn_of_unclaimed_tissue(self) -> None:
        """Warn of tissue files not named after a slide: they have no effect, which is easily overlooked."""
        folder = self._work.settings.tissue_folder
        with contextlib.suppress(OSError):  # the slides then report it
            if folder is not None and (names := unclaimed_tissue(folder, {row.slide_id for row in self._rows})):
                _logger.warning("%s: not used, since no slide_id of the manifest matches: %s", folder, listed(names))

    def _warn_of_absent_classes(self) -> None:
        """Warn if no slide has an area of a class: its name may be misspelt. Single slides without one are normal."""
        annotated = {row.slide_id for row in self._rows if row.annotation is not None}
        done = [outcome for outcome in self._outcomes.values() if outcome.state != "failed" and outcome.slide_id in annotated]
        for name in named_classes(self._work.settings):
            if done and all(any(note.startswith(absent_class(name)) for note in outcome.notes) for outcome in done):
                _logger.warning("no slide has an area of class %s; check its name in the annotations", name)

    def status(self) -> Status:
        """This run's progress; other processes' work shows while it waits for them."""
        outcomes = list(self._outcomes.values())
        failed = [outcome for outcome in outcomes if outcome.failure is not None]
        present = self._pool.present()
        if self._awaited is not None:
            present = read_present(self._work.state_dir / "workers", self._awaited)
        rate = sum(process.tiles_per_second for process in present)
        running, remaining, done = running_slides(present), self._slides - len(outcomes), len(outcomes) - len(failed)
        tiles = sum(outcome.tiles for outcome in outcomes)
        left = seconds_left(remaining, done, tiles, running, rate)
        stages: dict[str, int] = {}
        for outcome in failed:
            assert outcome.failure is not None
            stages[outcome.failure.stage] = stages.get(outcome.failure.stage, 0) + 1
        return Status(self._slides, done, stages, remaining, running, tiles, rate, left)

    def _facts(self, described: Described) -> dict[str, Any]:
        return {"settings": self._work.settings.model_dump(mode="json"), "encoder": described.encoder}

    def _work_off(self, claims: Claims, described: Described, progress: Callable[[SlideOutcome], None]) -> int:
        """Work until nothing is left to do; returns the number of slides left to others."""
        again = self._work.force or self._verify
        plan = plan_slides(
            self._rows, self._work.out, self._ledger, self._work.key, again=again, only_failed=self._retry_failed
        )
        self._slides = len(plan.kept) + len(plan.tasks)
        for kept in plan.kept:
            self._note(SlideOutcome(kept.slide_id, "skipped", kept.tiles, kept.notes), progress)
        tasks, recorded = plan.tasks, time.monotonic()
        while tasks:
            busy: list[SlideTask] = []
            with contextlib.closing(self._pool.work(self._work, tasks)) as settling:
                for settled in settling:
                    if settled.state == "busy":
                        busy.append(settled.task)
                    elif (outcome := _as_outcome(settled)) is not None:
                        self._note(outcome, progress)
                        if outcome.failure is not None and time.monotonic() - recorded > _RECORD_SECONDS:
                            self._record(described, claims)
                            recorded = time.monotonic()
            if busy and not self._wait:
                return len(busy)
            tasks = self._await(busy, claims)
        return 0

    def _await(self, busy: list[SlideTask], claims: Claims) -> list[SlideTask]:
        """Wait until one of the slides is free, and return all: most will have been done by their holders."""
        if busy:
            names = ", ".join(task.row.slide_id for task in busy[:3]) + (", ..." if len(busy) > 3 else "")
            _logger.warning("waiting for %d slides that other processes work on: %s", len(busy), names)
        self._awaited = claims
        try:
            while busy and all(claims.is_live(task.row.slide_id) for task in busy):
                time.sleep(_POLL_SECONDS)
        finally:
            self._awaited = None
        return busy

    def _record(self, described: Described, claims: Claims) -> None:
        write_record(self._work.out, self._rows, self._facts(described), described.key, self._ledger, claims)

    def _note(self, outcome: SlideOutcome, progress: Callable[[SlideOutcome], None]) -> None:
        self._outcomes[outcome.slide_id] = outcome
        progress(outcome)

    def _report(self, left: int, seconds: float) -> CohortReport:
        outcomes = list(self._outcomes.values())
        states = [outcome.state for outcome in outcomes]
        return CohortReport(
            done=states.count("done"),
            skipped=states.count("skipped"),
            failed=states.count("failed"),
            tiles=sum(outcome.tiles for outcome in outcomes if outcome.state == "done"),
            seconds=seconds,
            failures=tuple(outcome.failure for outcome in outcomes if outcome.failure is not None),
            elsewhere=states.count("elsewhere"),
            left=left,
        )


def _as_outcome(settled: Settled) -> SlideOutcome | None:
    """The outcome for the user; None if there is none yet."""
    recorded, slide_id = settled.outcome, settled.task.row.slide_id
    if recorded is None:
        return None
    if recorded.state == "failed":
        return SlideOutcome(slide_id, "failed", failure=Failure.of(recorded))
    state: Literal["done", "skipped", "elsewhere"] = settled.state if settled.state in ("done", "skipped") else "elsewhere"
    return SlideOutcome(slide_id, state, recorded.tiles, recorded.notes)


def _remove_stale(out: Path, claims: Claims) -> None:
    """Remove temporary files of killed runs: all if no process works here, otherwise those older than an hour."""
    left = [path for folder in (out, out / "overlays", out / ".extract" / "outcomes") for path in folder.glob(".partial-*")]
    nobody = not claims.live()
    for path in left:
        with contextlib.suppress(FileNotFoundError):
            if nobody or time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
    remove_absent(out / ".extract" / "workers", claims)
    remove_old_markers(out / ".extract")
