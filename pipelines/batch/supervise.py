"""One slide from its claim to its outcome, whatever happens to the process that works on it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import dataclass, replace
from typing import Literal

from comel.base.killable import Fault, KillableWorker, WorkerFailure
from comel.base.workers import failure
from comel.cohort.manifest import ManifestRow
from comel.errors import ComelError, SlideError
from pipelines.batch.claims import Claims
from pipelines.batch.owner import this_process
from pipelines.batch.presence import Presence, Watched
from pipelines.batch.runs import TakenOver, check_folder
from pipelines.batch.slide_records import Ledger, SlideRecord, files_stamp, inputs_stamp, slide_key
from pipelines.batch.work import OutputFull, SlideWork, Worked, is_full, load, output_full, work_on

__all__ = ["Settled", "SlideTask", "State", "Supervisor"]

State = Literal["done", "skipped", "failed", "elsewhere", "busy", "stopped"]
"""The result of a task: done now; skipped, because it was complete; failed; elsewhere, settled by another process since it was
planned; busy, claimed by another process; stopped, left to the next run."""

_logger = logging.getLogger(__name__)

_TERM_SECONDS = 2.0
_MEMORY_REMEDY = "most often the machine ran out of memory: use fewer workers or a smaller --batch-size"
_REMEDIES = {
    Fault.DIED: "check the file with another viewer; a copy may be damaged. Leave the slide out, or convert it",
    Fault.KILLED: _MEMORY_REMEDY,
    Fault.MEMORY: _MEMORY_REMEDY,
    Fault.LIMIT: "raise --worker-memory, or use a smaller --batch-size; if neither helps, leave the slide out",
    Fault.LATE: "check the file and its disk; if the slide is merely large, raise --time-limit",
    Fault.STOPPED: "check the file and its disk; if a single batch takes that long, use a smaller --batch-size",
    Fault.DEFECT: "run again with -v; if it fails again, leave the slide out of the manifest",
}


@dataclass(frozen=True)
class SlideTask:
    """A slide to work on, and its outcome at the time of planning."""

    row: ManifestRow
    seen: SlideRecord | None


@dataclass(frozen=True)
class Settled:
    """The result of a task.

    Attributes:
        task: the task.
        state: see :data:`State`.
        outcome: the recorded outcome; None if the slide is busy or was stopped.
    """

    task: SlideTask
    state: State
    outcome: SlideRecord | None = None


class Supervisor:
    """Works on one slide after another in its worker.

    Args:
        work: the slides' common settings.
        worker: the child process that does the work.
        claims: the claims on the slides.
        presence: this process's presence.
        stop: set when no slide may be started and the worker is being killed.
    """

    def __init__(
        self, work: SlideWork, worker: KillableWorker, claims: Claims, presence: Presence, stop: threading.Event
    ) -> None:
        self._work, self._worker, self._claims, self._presence, self._stop = work, worker, claims, presence, stop
        self._ledger = Ledger(work.state_dir / "outcomes")

    def settle(self, task: SlideTask) -> Settled:
        """Claim, work, record, release.

        Raises:
            ComelError: no worker process can be started.
            TakenOver: another run with other settings has taken the folder over.
            OutputFull: nothing more can be stored.
            OSError: claims or outcomes cannot be written for another reason.
        """
        try:
            return self._settle(task)
        except OSError as error:
            if is_full(error):
                raise output_full(self._work.out, error) from error
            raise

    def _settle(self, task: SlideTask) -> Settled:
        if self._stop.is_set():
            return Settled(task, "stopped")
        if (found := self._settled_elsewhere(task)) is not None:
            return found
        claim = self._claims.take(task.row.slide_id)
        if claim is None:
            return Settled(task, "busy")
        try:
            check_folder(self._work.state_dir, self._work.key)
            # Its last holder may have recorded it between the check above and the claim.
            if (found := self._settled_elsewhere(task)) is not None:
                return found
            with self._presence.of(claim, self._worker.kill) as watched:
                state, outcome = self._attempt(task.row, watched)
            if outcome is None:
                return Settled(task, "stopped")
            self._ledger.write(outcome)
            return Settled(task, state, outcome)
        finally:
            self._claims.release(claim)

    def _attempt(self, row: ManifestRow, watched: Watched) -> tuple[State, SlideRecord | None]:
        started = time.monotonic()
        blank = SlideRecord(row.slide_id, "failed", self._work.key, inputs_stamp(row), host=this_process().host)
        state: State = "failed"
        try:
            self._worker.call(load, self._work, tell=watched.hear)
            if self._stop.is_set():
                return "stopped", None
            worked: Worked = self._worker.call(work_on, self._work, row, timeout=self._work.time_limit, tell=watched.hear)
        except (OutputFull, TakenOver):
            raise
        except WorkerFailure as error:
            if self._was_stopped(error, watched):
                return "stopped", None
            told = self._told(error)
            if error.fault is Fault.START:  # the next slide would fail as well
                raise told from None
            outcome = replace(blank, stage=watched.running.stage, reason=told.what, remedy=told.remedy)
        except ComelError as error:
            stage = error.stage if isinstance(error, SlideError) else watched.running.stage
            outcome = replace(blank, stage=stage, reason=error.what, remedy=error.remedy)
        else:
            state = worked.state
            files = files_stamp(self._work.out, row.slide_id)
            key = slide_key(self._work.key, assumed=worked.assumed_mpp)
            outcome = replace(blank, state="done", key=key, files=files, tiles=worked.tiles, notes=worked.notes)
        return state, replace(outcome, ended=time.time(), seconds=round(time.monotonic() - started, 3))

    def _was_stopped(self, error: WorkerFailure, watched: Watched) -> bool:
        if error.fault is Fault.STOPPED:
            return not watched.has_stalled
        # A cluster ends a job by SIGTERM to all its processes, and the worker may be gone before this one has noticed.
        patience = _TERM_SECONDS if error.exit_code == -signal.SIGTERM else 0
        return error.fault in (Fault.DIED, Fault.KILLED) and self._stop.wait(patience)

    def _settled_elsewhere(self, task: SlideTask) -> Settled | None:
        now = self._ledger.read(task.row.slide_id)
        if now is None or now == task.seen or not now.has_key(self._work.key):
            return None
        return Settled(task, "elsewhere", now)

    def _told(self, error: WorkerFailure) -> ComelError:
        """The failure for a slide's record."""
        if error.fault is Fault.DEFECT and error.trace:
            _logger.warning("%s", error.trace)
        what = str(error)
        if error.fault is Fault.STOPPED:
            what = f"no progress for {self._work.stall_limit:g} s"
        if error.fault in (Fault.LIMIT, Fault.LATE, Fault.STOPPED):
            what = f"{what}; it was stopped"
        return failure(error, "the worker", {fault: ComelError(what, remedy) for fault, remedy in _REMEDIES.items()})
