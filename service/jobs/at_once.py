"""Predictions that a client waits for: made by a process beside those of the jobs, so that no job is before them."""

from __future__ import annotations

from comel.base.killable import CallFailed, CallTimedOut, WorkerCrashed
from comel.errors import ComelError
from service.errors import NotReadyError, TooLargeError
from service.jobs.executors import Executor, ran_out_of_memory
from service.predictions.work import Made, Work
from service.settings import ServiceSettings
from service.turns import Turns

__all__ = ["AtOnce"]

LOAD_SECONDS = 600.0
"""Longest that loading a model may take, its libraries included; it does not count as part of a prediction."""
_AS_JOB = "send it with 'Prefer: respond-async', which makes it a job"


class AtOnce:
    """Makes small predictions, one after the other; safe from several threads.

    Args:
        executor: what does the work.
        settings: the service's.
    """

    def __init__(self, executor: Executor, settings: ServiceSettings) -> None:
        self._executor, self._settings = executor, settings
        self._turns = Turns(executor)

    def prepare(self, model: str, version: int) -> None:
        """Load a version, so that the first to ask for it does not wait.

        Raises:
            ComelError: the version cannot be used there, or the service is about to stop.
        """
        with self._turns.turn(LOAD_SECONDS, remedy=_AS_JOB):
            self._load(model, version)

    def perform(self, work: Work) -> Made:
        """Make a prediction.

        Raises:
            BusyError: too many are before it.
            NotReadyError: the service is about to stop.
            TooLargeError: it needs more memory than the process may have, or has more instances than the settings allow.
            ComelError: the bag cannot be read or does not fit the model, it took too long, or the process died of it.
        """
        seconds = self._settings.sync_timeout_seconds
        with self._turns.turn(seconds, remedy=_AS_JOB, retry_after=self._settings.retry_seconds):
            # A process that was just started, also after one that died, has no model yet.
            self._load(work.model, work.version)
            try:
                return self._executor.perform(work, lambda stage, done, total: None, timeout=seconds)
            except WorkerCrashed:
                what = "the process that read the bag died of it"
                raise ComelError(what, "check the file; it may be damaged, or need more memory than a worker has") from None
            except CallTimedOut:
                raise ComelError(f"it took longer than {seconds:g} s", _AS_JOB) from None
            except CallFailed as failure:
                if ran_out_of_memory(failure):
                    remedy = "ask the service's operator for more worker_memory_bytes"
                    raise TooLargeError("it needs more memory than a worker has", remedy) from None
                raise

    def close(self) -> None:
        """End the process; what is under way or waits ends with it."""
        self._turns.close()

    def _load(self, model: str, version: int | None) -> None:
        try:
            self._executor.prepare(model, version, timeout=LOAD_SECONDS)
        except (WorkerCrashed, CallTimedOut) as error:
            raise NotReadyError(f"the model cannot be loaded ({error})", "ask the service's operator") from None
        except CallFailed as failure:
            if ran_out_of_memory(failure):
                raise NotReadyError("the model needs more memory than a worker has", "raise worker_memory_bytes") from None
            raise
