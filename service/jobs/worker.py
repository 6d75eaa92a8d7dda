"""One worker: claims a job, has it done, records its end; repeatedly until stopped."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from comel.base.killable import Fault, WorkerFailure
from comel.base.workers import failure
from comel.errors import ComelError
from service.db.tables import Job
from service.ids import new_id
from service.jobs.executors import Executor
from service.jobs.queue import JobQueue, LeaseLost
from service.jobs.sources import Inbox
from service.logs import describe_defect
from service.paths import remove_folder, without_paths
from service.predictions.store import row_of
from service.predictions.work import PREDICTIONS, Made, Work
from service.settings import ServiceSettings

__all__ = ["Ended", "Worker"]

Ended = Callable[[Job, str, Made | None, float], None]
"""Called with (job, outcome, what was made, seconds) before a prediction counts, and after a job failed."""

_POLL_SECONDS = 1.0
_BEAT_SECONDS = 1.0
_REPEAT_SECONDS = 0.2


class Worker(threading.Thread):
    """A thread that drives one executor.

    Args:
        queue: the job queue.
        executor: the executor that does the work.
        ended: called for each attempt that ends the job; if it raises a ComelError, a prediction does not count.
        settings: the service's.
        log: a structlog logger.
        hidden: folders whose paths are removed from the errors that clients see.
        woken: set when a job may be waiting, by any submission in this process.
    """

    def __init__(
        self,
        queue: JobQueue,
        executor: Executor,
        ended: Ended,
        settings: ServiceSettings,
        *,
        log: Any,
        hidden: Iterable[Path],
        woken: threading.Event,
    ) -> None:
        super().__init__(name="comel-worker", daemon=True)
        self.owner = f"{socket.gethostname()[:60]}:{os.getpid()}:{new_id()}"
        self._queue, self._executor, self._ended, self._settings = queue, executor, ended, settings
        self._inbox = Inbox(settings.state_dir)
        self._log, self._hidden, self._woken = log, tuple(hidden), woken
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Claim no further job; the running one continues."""
        self._stopping.set()
        self._woken.set()

    def abandon(self) -> None:
        """Also end the running work; its job goes back to the queue, and the attempt does not count."""
        self.stop()
        while self.is_alive():
            self._executor.kill()
            self.join(_REPEAT_SECONDS)

    def run(self) -> None:
        """See the class."""
        try:
            while not self._stopping.is_set():
                try:
                    job = self._queue.claim(self.owner, given_up=self._give_up)
                except Exception as error:  # one failed query must not end the worker
                    self._log.error("the database does not answer", **describe_defect(error))
                    job = None
                if job is None:
                    self._woken.wait(_POLL_SECONDS)
                    self._woken.clear()
                    continue
                try:
                    self._do(job)
                except Exception as defect:  # the job is done again when its lease expires, and the others meanwhile
                    self._log.error("a worker failed", job=job.id, **describe_defect(defect))
        finally:
            self._executor.close()

    def _do(self, job: Job) -> None:
        started, outcome = time.monotonic(), "lost"
        try:
            outcome = self._attempt(job, started)
        except LeaseLost:
            self._forget(job)
        except SQLAlchemyError as error:
            # The lease expires, and the job is done again; the prediction's folder exists by then.
            self._log.error("the end of a job could not be recorded", job=job.id, **describe_defect(error))
        about = {"job": job.id, "kind": job.kind, "attempt": job.attempts, "outcome": outcome}
        self._log.info("job", seconds=round(time.monotonic() - started, 2), **about)

    def _attempt(self, job: Job, started: float) -> str:
        """Do the job once and record its end; returns the outcome."""
        error, outcome = ComelError("the service failed on this job", f"ask its operator about job {job.id}"), "failed"
        beat = _Beat(self._queue, job.id, self.owner, self._executor, self._log)
        try:
            with beat:
                made = self._executor.perform(self._work(job), beat.tell, timeout=self._settings.job_timeout_seconds)
        except WorkerFailure as failed:
            if self._put_back(job, failed):
                return "put back"
            error = failure(failed, "the job", self._said(job) | {Fault.DEFECT: error})
        except ComelError as refused:
            error, outcome = refused, "refused"
        except Exception as defect:
            self._log.error("a job failed", job=job.id, **describe_defect(defect))
        else:
            try:
                row = row_of(made, job.model, job.source, job.key)
                told = partial(self._ended, job, "done", made, time.monotonic() - started)
                self._queue.finish(job.id, self.owner, row, record=told)
                self._inbox.discard(job.id)
                return "done"
            except ComelError as unrecorded:  # it cannot be logged, so it must not be given out
                remove_folder(self._settings.state_dir / PREDICTIONS / job.id)
                error = unrecorded
        what, remedy = (without_paths(text, self._hidden) for text in (error.what, error.remedy))
        self._queue.fail(job.id, self.owner, ComelError(what, remedy))
        self._inbox.discard(job.id)
        with suppress(ComelError):
            self._ended(job, outcome, None, time.monotonic() - started)
        return outcome

    def _put_back(self, job: Job, failed: WorkerFailure) -> bool:
        """Requeue a job that did not cause the failure, or not yet provably; False if it has to end."""
        if failed.fault in (Fault.STOPPED, Fault.START):
            self._queue.put_back(job.id, self.owner, counted=False)
            if failed.fault is Fault.START:
                self._log.error("no worker process can be started", job=job.id, **describe_defect(failed))
                self._stopping.wait(_POLL_SECONDS)
            return True
        if failed.fault in (Fault.DIED, Fault.KILLED):
            self._log.warning("a worker process died", job=job.id, exit_code=failed.exit_code)
            if job.attempts < self._settings.max_attempts:
                self._queue.put_back(job.id, self.owner, counted=True)
                return True
        elif failed.fault is not Fault.LATE:
            self._log.error("a job failed", job=job.id, **describe_defect(failed))
        return False

    def _said(self, job: Job) -> dict[Fault, ComelError]:
        """The errors for a job that failed in its worker process."""
        died = f"the worker process died at each of {job.attempts} attempts"
        late = f"it took longer than {self._settings.job_timeout_seconds:g} s"
        large = "it needs more memory than a worker has"
        return {
            Fault.DIED: ComelError(died, "the file may be damaged, or need more memory than a worker has"),
            Fault.LATE: ComelError(late, "ask the service's operator for a longer job_timeout_seconds"),
            Fault.MEMORY: ComelError(large, "ask the operator for more worker_memory_bytes"),
        }

    def _work(self, job: Job) -> Work:
        kind, options = job.kind, job.options
        assert kind in ("bag", "slide")
        return Work(
            job.id,
            "bag" if kind == "bag" else "slide",
            self._inbox.path(job),
            job.slide_id,
            job.model,
            job.version,
            task=options.get("task"),
            mpp=options.get("mpp"),
            assume_encoder=options.get("assume_encoder"),
            origin={"model": job.model, "source": job.source, "key": job.key},
        )

    def _give_up(self, job: Job) -> None:
        """Record the end of a job whose last worker went silent."""
        self._inbox.discard(job.id)
        with suppress(ComelError):
            self._ended(job, "failed", None, 0.0)

    def _forget(self, job: Job) -> None:
        """Remove a cancelled job's results; a job that another worker has is left alone."""
        try:
            state = self._queue.get(job.id).job.state
        except (ComelError, SQLAlchemyError):
            return
        if state == "cancelled":
            remove_folder(self._settings.state_dir / PREDICTIONS / job.id)
            self._inbox.discard(job.id)


class _Beat:
    """Heartbeat: renews the lease and reports progress every second; kills the work if the lease is lost."""

    def __init__(self, queue: JobQueue, job: str, owner: str, executor: Executor, log: Any) -> None:
        self._queue, self._job, self._owner, self._executor, self._log = queue, job, owner, executor, log
        self._progress: tuple[str, int, int] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="comel-beat", daemon=True)

    def __enter__(self) -> _Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, stage: str, done: int, total: int) -> None:
        """Record the work's progress, written at the next beat."""
        self._progress = stage, done, total

    def _run(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            try:
                self._queue.beat(self._job, self._owner, self._progress)
            except LeaseLost:
                while not self._over.wait(_REPEAT_SECONDS):
                    self._executor.kill()
                return
            except Exception as error:  # the next beat tries again; if none succeeds, the lease expires
                self._log.error("the database does not answer", **describe_defect(error))
