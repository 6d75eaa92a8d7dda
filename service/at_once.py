"""Predictions that a client waits for: made by a process beside those of the jobs, so that no job is before them."""

from __future__ import annotations

import threading

from comel.errors import ComelError
from comel.killable import CallFailed, CallTimedOut, WorkerCrashed
from service.jobs.executors import Executor
from service.predictions import Made, Work
from service.problems import TooLargeError
from service.settings import ServiceSettings

__all__ = ["AtOnce"]


class AtOnce:
    """Makes small predictions, one after the other; safe from several threads.

    Args:
        executor: what does the work.
        settings: the service's.
    """

    def __init__(self, executor: Executor, settings: ServiceSettings) -> None:
        self._executor, self._seconds, self._lock = executor, settings.sync_timeout_seconds, threading.Lock()

    def prepare(self, model: str, version: int) -> None:
        """Load a version, so that the first to ask for it does not wait.

        Raises:
            ComelError: the version cannot be used; and the exceptions of :meth:`comel.killable.KillableWorker.call`.
        """
        with self._lock:
            self._executor.prepare(model, version)

    def perform(self, work: Work) -> Made:
        """Make a prediction.

        Raises:
            TooLargeError: it needs more memory than the process may have, or has more instances than the settings allow.
            ComelError: the bag cannot be read or does not fit the model, it took too long, or the process died of it.
        """
        try:
            with self._lock:
                return self._executor.perform(work, lambda stage, done, total: None, timeout=self._seconds)
        except WorkerCrashed:
            what = "the process that read the bag died of it"
            raise ComelError(what, "check the file; it may be damaged, or need more memory than a worker has") from None
        except CallTimedOut:
            remedy = "send it with 'Prefer: respond-async', which makes it a job"
            raise ComelError(f"it took longer than {self._seconds:g} s", remedy) from None
        except CallFailed as failure:
            if failure.kind == "MemoryError":
                remedy = "ask the service's operator for more worker_memory_bytes"
                raise TooLargeError("it needs more memory than a worker has", remedy) from None
            raise

    def close(self) -> None:
        """End the process; what is under way ends with it."""
        self._executor.kill()
        with self._lock:
            self._executor.close()
