"""The workers of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.jobs.executors import Executor
from service.jobs.queue import JobQueue
from service.jobs.worker import Ended, Worker
from service.settings import ServiceSettings

__all__ = ["JobWorkers"]


class JobWorkers:
    """One :class:`Worker` per executor; the arguments are the worker's."""

    def __init__(
        self,
        queue: JobQueue,
        executors: Iterable[Executor],
        ended: Ended,
        settings: ServiceSettings,
        *,
        log: Any,
        hidden: Iterable[Path],
    ) -> None:
        self._settings, hidden, executors = settings, tuple(hidden), list(executors)
        self._deadline: float | None = None
        self._woken = [threading.Event() for _ in executors]
        self._workers = [
            Worker(queue, executor, ended, settings, log=log, hidden=hidden, woken=woken)
            for executor, woken in zip(executors, self._woken, strict=True)
        ]

    def start(self) -> None:
        """Begin to claim jobs."""
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Wake the workers: a job may be waiting."""
        for woken in self._woken:
            woken.set()

    def drain(self) -> None:
        """Claim no further job; the grace time of running jobs begins."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._settings.grace_seconds
        for worker in self._workers:
            worker.stop()

    def stop(self) -> None:
        """Claim no further job, let running jobs continue until their grace time is over, then requeue them."""
        self.drain()
        for worker in self._workers:
            worker.join(max(0.0, (self._deadline or 0.0) - time.monotonic()))
        for worker in self._workers:
            worker.abandon()
