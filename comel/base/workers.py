"""Child processes that several threads share, and what is said where work in a child process comes to nothing."""

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

    A process is started at its first call, and anew after it crashed, hung or took too much memory. Safe from several threads.

    Args:
        size: how many processes there are at most.
        memory_bytes, used_bytes, environment: of each, see :class:`comel.base.killable.KillableWorker`.
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
        # The last one back is the first one out: what it has open is likely what is asked for next.
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
        """Of the processes that are there."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        wait: float | None = None,
        timeout: float | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run ``function(*arguments)`` in a process that is free and return its result.

        Args:
            function, arguments, timeout, tell: see :meth:`comel.base.killable.KillableWorker.call`.
            wait: most seconds until a process is free, None for as long as it takes.

        Raises:
            ComelError: as the function raised it.
            WorkerFailure: the work came to nothing, see :class:`comel.base.killable.Fault` and :func:`failure`.
        """
        with self._one(wait) as worker:
            return worker.call(function, *arguments, timeout=timeout, tell=tell)

    def kill(self) -> None:
        """End the calls under way, which fail as stopped; later ones have new processes."""
        for worker in self._workers:
            worker.kill()

    def close(self) -> None:
        """End the processes for good; what is under way or waits fails as stopped."""
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
        for worker in ended:  # who still waits for one is told
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
    """What a user is told of work in a child process that came to nothing.

    Args:
        error: as the call raised it.
        what: what was to be done, with the place: the sentence's beginning where ``said`` has no other.
        said: what is told of some faults instead. An answer to ``DIED`` also holds for ``KILLED``, one to ``MEMORY`` for
            ``LIMIT``, and one to ``DEFECT`` for all four: for whatever the input may have brought about.
    """
    said, fault = said or {}, error.fault
    while fault not in said and fault in _LIKE:
        fault = _LIKE[fault]
    return said.get(fault) or ComelError(f"{what}: {error}", _REMEDIES[error.fault])
