"""Synchronous predictions, in a process of their own, so that they never queue behind jobs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from comel.base.killable import Fault, WorkerFailure
from comel.base.workers import failure
from comel.errors import ComelError, RunError
from service.errors import NotReadyError, TooLargeError, no_worker
from service.jobs.executors import Executor
from service.predictions.work import Made, Work
from service.settings import ServiceSettings

__all__ = ["AtOnce"]

LOAD_SECONDS = 600.0
"""Longest that loading a model may take, its libraries included; a client is asked to retry long before."""
_AS_JOB = "send it with 'Prefer: respond-async', which makes it a job"


class AtOnce:
    """Makes small predictions, one after another; thread-safe.

    Args:
        executor: the executor that does the work.
        settings: the service's.
    """

    def __init__(self, executor: Executor, settings: ServiceSettings) -> None:
        self._executor, self._settings = executor, settings
        self._guard = threading.Lock()
        self._pid: int | None = None
        self._ready: set[tuple[str, int | None]] = set()
        self._loading: dict[tuple[str, int | None], Future[None]] = {}

    def prepare(self, model: str, version: int) -> None:
        """Load a version, so that the first request for it does not wait.

        Raises:
            ComelError: the version cannot be used there, or the service is stopping.
        """
        self._await_load(model, version, LOAD_SECONDS)

    def perform(self, work: Work) -> Made:
        """Make a prediction. Waits ``sync_timeout_seconds`` at most until it can begin, and as long at most until it is made.

        Raises:
            BusyError: too many requests are before it.
            NotReadyError: the model is being loaded or cannot be, or the service is about to stop.
            TooLargeError: it needs more memory than the process may have, or has more instances than the settings allow.
            ComelError: the bag cannot be read or does not fit the model, it took too long, or the process died.
        """
        seconds = self._settings.sync_timeout_seconds
        deadline = time.monotonic() + seconds
        # A process that was just started, also after one that died, has no model yet.
        self._await_load(work.model, work.version, seconds)
        left = max(0.0, deadline - time.monotonic())
        try:
            return self._executor.perform(work, lambda stage, done, total: None, timeout=seconds, wait=left)
        except WorkerFailure as error:
            if error.fault is Fault.DEFECT:
                raise
            damaged = "check the file; it may be damaged, or need more memory than a worker has"
            larger = "ask the service's operator for more worker_memory_bytes"
            said = no_worker(_AS_JOB, retry_after=self._settings.retry_seconds) | {
                Fault.DIED: ComelError("the process that read the bag died", damaged),
                Fault.MEMORY: TooLargeError("it needs more memory than a worker has", larger),
                Fault.LATE: ComelError(f"it took longer than {seconds:g} s", _AS_JOB),
            }
            raise failure(error, "the prediction", said) from None

    def close(self) -> None:
        """End the process, with running and waiting predictions."""
        self._executor.close()

    def _await_load(self, model: str, version: int | None, seconds: float) -> None:
        """Wait until the process has a version. If that takes longer, loading continues in its own thread.

        Raises:
            NotReadyError: it takes longer, or cannot be done.
        """
        wanted = model, version
        with self._guard:
            if self._executor.pid is not None and self._executor.pid == self._pid and wanted in self._ready:
                return
            future = self._loading.get(wanted)
            if future is None:
                future = self._loading[wanted] = Future()
                threading.Thread(target=self._load_for, args=(wanted, future), name="comel-load", daemon=True).start()
        try:
            future.result(seconds)
        except TimeoutError:
            raise NotReadyError("the model is being loaded", "send it again in a minute") from None

    def _load_for(self, wanted: tuple[str, int | None], future: Future[None]) -> None:
        failed: BaseException | None = None
        try:
            pid = self._load(*wanted)
            with self._guard:
                if pid != self._pid:
                    self._pid, self._ready = pid, set()
                self._ready.add(wanted)
        except BaseException as error:  # passed on to the waiting callers
            failed = error
        with self._guard:
            del self._loading[wanted]
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)

    def _load(self, model: str, version: int | None) -> int:
        try:
            return self._executor.prepare(model, version, timeout=LOAD_SECONDS, wait=LOAD_SECONDS)
        except RunError as error:
            raise NotReadyError(f"the model cannot be loaded: {error.what}", error.remedy) from None
        except WorkerFailure as error:
            if error.fault is Fault.DEFECT:
                raise
            unloadable = NotReadyError(f"the model cannot be loaded ({error})", "ask the service's operator")
            said = no_worker(_AS_JOB) | {
                Fault.DIED: unloadable,
                Fault.LATE: unloadable,
                Fault.MEMORY: NotReadyError("the model needs more memory than a worker has", "raise worker_memory_bytes"),
            }
            raise failure(error, "the model cannot be loaded", said) from None
