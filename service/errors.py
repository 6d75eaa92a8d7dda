"""What a request may be refused for; :mod:`service.http.problems` says with which status."""

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
    """As much waits as may. ``retry_after`` is how many seconds a client should wait."""

    def __init__(self, what: str, remedy: str = "", *, retry_after: int = 30) -> None:
        super().__init__(what, remedy)
        self.retry_after = retry_after


class ConflictError(ComelError):
    """It does not fit what is there already. ``offset`` is where an upload's next part begins, None elsewhere."""

    def __init__(self, what: str, remedy: str = "", *, offset: int | None = None) -> None:
        super().__init__(what, remedy)
        self.offset = offset


class ForbiddenError(ComelError):
    """The key may do this with what it made itself, not with what others made; the scope ``manage`` may."""


class NoRoomError(ComelError):
    """The service's disk is full."""

    def __init__(
        self, what: str = "there is no room on the service's disk", remedy: str = "send it later, or ask its operator"
    ) -> None:
        super().__init__(what, remedy)


class NotFoundError(ComelError):
    """Nothing under this name."""


class NotReadyError(ComelError):
    """The service cannot predict now."""


class TooLargeError(ComelError):
    """More than the service is set to take."""


class WrongKindError(ComelError):
    """A body or file of a kind that is not taken."""


def is_full(error: BaseException | None) -> bool:
    """Whether a disk without room, or a used-up quota of the file system, is why something failed.

    Asks an error of the operating system, of a database, and those that led to them.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # What SQLAlchemy raises has the driver's error as its ``orig``.
        driver = getattr(error, "orig", error)
        if getattr(driver, "sqlite_errorname", "") in _SQLITE_FULL or getattr(driver, "sqlstate", "") == _POSTGRESQL_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def needing_room() -> Iterator[None]:
    """Make one :class:`NoRoomError` of every way in which a full disk ends the block.

    Raises:
        NoRoomError: as said.
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
    """What a client is told where no worker process had its request in hand, for :func:`comel.base.workers.failure`.

    Args:
        remedy: what to do where others were before it.
        retry_after: how many seconds to wait then.
    """
    return {
        Fault.BUSY: BusyError("too many are before this request", remedy, retry_after=retry_after),
        Fault.START: NotReadyError("no worker process can be started", "send it again in a minute"),
        Fault.STOPPED: NotReadyError("the service is about to stop", "send it again in a minute"),
    }
