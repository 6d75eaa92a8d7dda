"""Errors that refuse a request; :mod:`service.http.problems` maps them to statuses."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from comel.base.killable import Fault
from comel.errors import ComelError

__all__ = [
    "BusyError",
    "ConflictError",
    "ForbiddenError",
    "NoRoomError",
    "NotFoundError",
    "NotReadyError",
    "TooLargeError",
    "WrongKindError",
    "is_full",
    "needing_room",
    "no_worker",
]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SQLITE_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
_POSTGRESQL_FULL = "53100"


class BusyError(ComelError):
    """The queue is full. ``retry_after`` is the number of seconds a client should wait."""

    def __init__(self, what: str, remedy: str = "", *, retry_after: int = 30) -> None:
        super().__init__(what, remedy)
        self.retry_after = retry_after


class ConflictError(ComelError):
    """It conflicts with existing state. ``offset`` is where an upload's next part begins, otherwise None."""

    def __init__(self, what: str, remedy: str = "", *, offset: int | None = None) -> None:
        super().__init__(what, remedy)
        self.offset = offset


class ForbiddenError(ComelError):
    """The key may do this only with what it made itself; the scope ``manage`` may do it with everything."""


class NoRoomError(ComelError):
    """The service's disk is full."""

    def __init__(
        self, what: str = "there is no room on the service's disk", remedy: str = "try again later, or ask its operator"
    ) -> None:
        super().__init__(what, remedy)


class NotFoundError(ComelError):
    """There is nothing under this name."""


class NotReadyError(ComelError):
    """The service cannot predict now."""


class TooLargeError(ComelError):
    """More than the service is configured to accept."""


class WrongKindError(ComelError):
    """A body or file of a kind that is not accepted."""


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or an exhausted quota of the file system, caused a failure.

    Checks an error of the operating system or of a database, and the errors that caused them.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # SQLAlchemy's errors have the driver's error as ``orig``.
        driver = getattr(error, "orig", error)
        if getattr(driver, "sqlite_errorname", "") in _SQLITE_FULL or getattr(driver, "sqlstate", "") == _POSTGRESQL_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def needing_room() -> Iterator[None]:
    """Turn every failure of the block from a full disk into :class:`NoRoomError`.

    Raises:
        NoRoomError: the disk is full.
    """
    try:
        yield
    except ComelError:
        raise
    except Exception as error:
        if is_full(error):
            raise NoRoomError from None
        raise


def no_worker(remedy: str, *, retry_after: int = 30) -> dict[Fault, ComelError]:
    """Errors for a request that no worker process took, for :func:`comel.base.workers.failure`.

    Args:
        remedy: the remedy if others were before it.
        retry_after: the seconds to wait in that case.
    """
    return {
        Fault.BUSY: BusyError("too many requests are before this one", remedy, retry_after=retry_after),
        Fault.START: NotReadyError("no worker process can be started", "send it again in a minute"),
        Fault.STOPPED: NotReadyError("the service is stopping", "send it again in a minute"),
    }
