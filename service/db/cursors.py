"""Lists in pages: the number of entries, and where the next page starts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from comel.errors import ComelError

__all__ = ["Limit", "NameCursor", "TimeCursor", "no_cursor", "page_of", "read_cursor", "write_cursor"]

Entry = TypeVar("Entry")
Limit = Annotated[int, Query(ge=1, le=200, description="most entries per page", examples=[100])]


def _cursor(example: str) -> Any:
    said = "`next` of the previous page; the first page if not given"
    return Query(max_length=1024, description=said, examples=[example])


NameCursor = Annotated[str | None, _cursor("WyJzbGlkZS0xLnN2cyIsICI1ZDQxNDAyYWJjNGIyYTc2Yjk3MTlkOTExMDE3YzU5MiJd")]
"""The cursor of a list sorted by name."""
TimeCursor = Annotated[str | None, _cursor("WyIxNzcyMzU3NDAwLjAiLCAiOWY4NmQwODE4ODRjNGQ2NTlhMmZlYWEwYzU1YWQwMTUiXQ")]
"""The cursor of a list sorted newest first."""


def page_of(
    entries: Sequence[Entry], limit: int, cursor: str | None, *, key: Callable[[Entry], tuple[str, ...]]
) -> tuple[list[Entry], str | None]:
    """A page of entries sorted by ``key``, and the cursor of the next page.

    A cursor names the last entry, so entries added or removed between two pages do not shift the others.

    Raises:
        ComelError: the cursor did not come from this function.
    """
    after = None if cursor is None else read_cursor(cursor)
    left = [entry for entry in entries if after is None or key(entry) > after]
    page = list(left[:limit])
    more = len(left) > limit
    return page, write_cursor(key(page[-1])) if more else None


def write_cursor(last: tuple[str, ...]) -> str:
    """The cursor of the page that begins after an entry, from what the list is sorted by."""
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[str, ...]:
    """The inverse of :func:`write_cursor`.

    Raises:
        ComelError: the cursor did not come from there.
    """
    try:
        last: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        last = None
    if not isinstance(last, list) or not all(isinstance(part, str) for part in last):
        raise no_cursor()
    return tuple(last)


def no_cursor() -> ComelError:
    """The error for a cursor of no list or another list."""
    return ComelError("the cursor does not belong to this list", "start again without a cursor")
