"""One child process, used by one thread at a time, until it is closed for all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from comel.base.killable import CallKilled
from service.errors import BusyError, NotReadyError

__all__ = ["Turns"]

_KILL_SECONDS = 0.2


class _Killable(Protocol):
    def kill(self) -> object: ...
    def close(self) -> None: ...


class Turns:
    """Who may use ``worker`` now; safe from several threads."""

    def __init__(self, worker: _Killable) -> None:
        self._worker, self._lock, self._closed = worker, threading.Lock(), False

    @contextmanager
    def turn(self, seconds: float, *, remedy: str, retry_after: int = 30) -> Iterator[None]:
        """Wait for ``seconds`` at most, then have the worker alone.

        Raises:
            BusyError: others had it all the time; ``remedy`` says what to do.
            NotReadyError: it was closed, before or meanwhile.
        """
        if not self._lock.acquire(timeout=seconds):
            raise BusyError("too many are before this request", remedy, retry_after=retry_after)
        try:
            if self._closed:
                raise _stopping()
            yield
        except CallKilled:
            raise _stopping() from None
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the worker; what is under way or waits ends with it."""
        self._closed = True
        while not self._lock.acquire(timeout=_KILL_SECONDS):
            self._worker.kill()
        try:
            self._worker.close()
        finally:
            self._lock.release()


def _stopping() -> NotReadyError:
    return NotReadyError("the service is about to stop", "send it again in a minute")
