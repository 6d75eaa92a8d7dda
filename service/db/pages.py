"""Lists in pages, newest first, with a cursor for the start of the next page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from service.db.cursors import no_cursor, read_cursor, write_cursor
from service.ids import is_id

__all__ = ["Page", "page_of"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """A page of a list, and the cursor of the next page: None on the last one."""

    items: list[Item]
    next: str | None


def page_of(
    session: Session, table: Any, conditions: Sequence[ColumnElement[bool]], *, limit: int, cursor: str | None
) -> Page[Any]:
    """At most ``limit`` rows of a table that has ``created`` and ``id``. Rows added meanwhile do not shift the pages.

    Raises:
        ComelError: the cursor did not come from a page.
    """
    wanted = select(table).where(*conditions).order_by(table.created.desc(), table.id.desc()).limit(limit + 1)
    if cursor is not None:
        created, identifier = _place(cursor)
        wanted = wanted.where(or_(table.created < created, and_(table.created == created, table.id < identifier)))
    rows = list(session.execute(wanted).scalars())
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], None if last is None else write_cursor((repr(last.created), last.id)))


def _place(cursor: str) -> tuple[float, str]:
    try:
        created, identifier = read_cursor(cursor)
        place = float(created), identifier
    except ValueError:
        raise no_cursor() from None
    if not (math.isfinite(place[0]) and is_id(identifier)):
        raise no_cursor()
    return place
