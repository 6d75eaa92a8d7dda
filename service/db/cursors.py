"""Lists in pages: how many entries, and where the next page starts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from comel.errors import ComelError

__all__ = ["Limit", "NameCursor", "TimeCursor", "no_cursor", "page_of", "read_cursor", "write_cursor"]

Entry = TypeVar("Entry")
Limit = Annotated[int, Query(ge=1, le=200, description="most entries of a page", examples=[100])]


def _cursor(example: str) -> Any:
    said = "`next` of the page before; the first page if not given"
    return Query(max_length=1024, description=said, examples=[example])


NameCursor = Annotated[str | None, _cursor("WyJzbGlkZS0xLnN2cyIsICI1ZDQxNDAyYWJjNGIyYTc2Yjk3MTlkOTExMDE3YzU5MiJd")]
"""Of a list that is sorted by name."""
TimeCursor = Annotated[str | None, _cursor("WyIxNzcyMzU3NDAwLjAiLCAiOWY4NmQwODE4ODRjNGQ2NTlhMmZlYWEwYzU1YWQwMTUiXQ")]
"""Of a list whose newest entries come first."""


def page_of(
    entries: Sequence[Entry], limit: int, cursor: str | None, *, key: Callable[[Entry], tuple[str, ...]]
) -> tuple[list[Entry], str | None]:
    """A page of entries that are sorted by ``key``, and the cursor of the next one.

    A cursor says which entry was the last, so entries that come or go between two pages shift none of the others.

    Raises:
        ComelError: the cursor is none that this function gave.
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
    """What :func:`write_cursor` was given.

    Raises:
        ComelError: it gave no such cursor.
    """
    try:
        last: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        last = None
    if not isinstance(last, list) or not all(isinstance(part, str) for part in last):
        raise no_cursor()
    return tuple(last)


def no_cursor() -> ComelError:
    """What a client is told whose cursor is of no list, or of another."""
    return ComelError("the cursor is not one that this list gave", "start again without a cursor")
