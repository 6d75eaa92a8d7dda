"""Child processes shared by several threads, and the messages for work that fails in them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from comel.base.killable import Fault, KillableWorker, WorkerFailure
from comel.errors import ComelError

__all__ = ["WorkerPool", "failure"]

_KILL_SECONDS = 0.2

_REMEDIES = {
    Fault.START: "close other programs, or raise the limits on processes and open files (ulimit -u, ulimit -n)",
    Fault.DIED: "check the input; a copy may be damaged",
    Fault.KILLED: "most often memory ran out: free some, or do less at once",
    Fault.LIMIT: "raise the limit, or do less at once",
    Fault.MEMORY: "free memory, or do less at once",
    Fault.LATE: "check the input and its disk, or allow more time",
    Fault.STOPPED: "start it again",
    Fault.BUSY: "try again later",
    Fault.DEFECT: "see the log",
}
_LIKE = {Fault.KILLED: Fault.DIED, Fault.LIMIT: Fault.MEMORY, Fault.DIED: Fault.DEFECT, Fault.MEMORY: Fault.DEFECT}


class WorkerPool:
    """Child processes that do one call each at a time, see :class:`comel.base.killable.KillableWorker`.

    A process is started at its first call, and again after it crashed, hung or took too much memory. Thread-safe.

    Args:
        size: the largest number of processes.
        memory_bytes, used_bytes, environment: for each process, see :class:`comel.base.killable.KillableWorker`.
    """

    def __init__(
        self,
        size: int = 1,
        *,
        memory_bytes: int | None = None,
        used_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        limits = {"memory_bytes": memory_bytes, "used_bytes": used_bytes}
        self._workers = [KillableWorker(**limits, environment=dict(environment or {})) for _ in range(size)]
        # Last in, first out: what the last process has open is likely to be needed next.
        self._free: queue.LifoQueue[KillableWorker] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._closed = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The ids of the running processes."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        wait: float | None = None,
        timeout: float | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run ``function(*arguments)`` in a free process and return its result.

        Args:
            function, arguments, timeout, tell: see :meth:`comel.base.killable.KillableWorker.call`.
            wait: most seconds to wait for a free process, None for no limit.

        Raises:
            ComelError: as the function raised it.
            WorkerFailure: the work failed, see :class:`comel.base.killable.Fault` and :func:`failure`.
        """
        with self._one(wait) as worker:
            return worker.call(function, *arguments, timeout=timeout, tell=tell)

    def kill(self) -> None:
        """End the calls in progress, which fail as stopped; later ones get new processes."""
        for worker in self._workers:
            worker.kill()

    def close(self) -> None:
        """End the processes for good; calls in progress or waiting fail as stopped."""
        self._closed = True
        ended: list[KillableWorker] = []
        while len(ended) < len(self._workers):
            try:
                worker = self._free.get(timeout=_KILL_SECONDS)
            except queue.Empty:
                self.kill()
            else:
                worker.close()
                ended.append(worker)
        for worker in ended:  # wakes the callers that still wait for one
            self._free.put(worker)

    @contextmanager
    def _one(self, wait: float | None) -> Iterator[KillableWorker]:
        try:
            worker = self._free.get(timeout=wait)
        except queue.Empty:
            raise WorkerFailure(Fault.BUSY, f"no process became free within {wait:g} s") from None
        try:
            if self._closed:
                raise WorkerFailure(Fault.STOPPED, "it was stopped")
            yield worker
        finally:
            self._free.put(worker)


def failure(error: WorkerFailure, what: str, said: Mapping[Fault, ComelError] | None = None) -> ComelError:
    """The user's error message for work that failed in a child process.

    Args:
        error: as the call raised it.
        what: the work and its place: how the message begins unless ``said`` has an entry.
        said: other messages for some faults. An entry for ``DIED`` also covers ``KILLED``, one for ``MEMORY`` covers
            ``LIMIT``, and one for ``DEFECT`` covers all four: everything that the input may have caused.
    """
    said, fault = said or {}, error.fault
    while fault not in said and fault in _LIKE:
        fault = _LIKE[fault]
    return said.get(fault) or ComelError(f"{what}: {error}", _REMEDIES[error.fault])
