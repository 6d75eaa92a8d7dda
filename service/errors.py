"""What a request may be refused for; :mod:`service.http.problems` says with which status."""

from __future__ import annotations

from comel.errors import ComelError

__all__ = [
    "BusyError",
    "ConflictError",
    "NotFoundError",
    "NotReadyError",
    "TooLargeError",
    "WrongKindError",
]


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


class NotFoundError(ComelError):
    """Nothing under this name."""


class NotReadyError(ComelError):
    """The service cannot predict now."""


class TooLargeError(ComelError):
    """More than the service is set to take."""


class WrongKindError(ComelError):
    """A body or file of a kind that is not taken."""
