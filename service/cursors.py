"""Lists in pages: how many entries, and where the next page starts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from comel.errors import ComelError

__all__ = ["Cursor", "Limit", "page_of"]

Entry = TypeVar("Entry")
Limit = Annotated[int, Query(ge=1, le=1000, description="most entries of a page")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next` of the page before; none: the first page")]


def page_of(
    entries: Sequence[Entry], limit: int, cursor: str | None, *, key: Callable[[Entry], tuple[str, ...]]
) -> tuple[list[Entry], str | None]:
    """A page of entries that are sorted by ``key``, and the cursor of the next one.

    A cursor says which entry was the last, so entries that come or go between two pages shift none of the others.

    Raises:
        ComelError: the cursor is none that this function gave.
    """
    after = None if cursor is None else _read(cursor)
    left = [entry for entry in entries if after is None or key(entry) > after]
    page = list(left[:limit])
    more = len(left) > limit
    return page, _write(key(page[-1])) if more else None


def _write(last: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[str, ...]:
    try:
        last: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        last = None
    if not isinstance(last, list) or not all(isinstance(part, str) for part in last):
        raise ComelError("the cursor is not one that this list gave", "start again without a cursor")
    return tuple(last)
