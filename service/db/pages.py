"""Lists in pages, newest first, with a cursor that says where the next page starts."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from comel.errors import ComelError
from service.ids import is_id

__all__ = ["Page", "page_of"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Some of a list, and the cursor of the next page: None on the last one."""

    items: list[Item]
    next: str | None


def page_of(
    session: Session, table: Any, conditions: Sequence[ColumnElement[bool]], *, limit: int, cursor: str | None
) -> Page[Any]:
    """At most ``limit`` rows of a table that has ``created`` and ``id``. Rows that are added meanwhile shift nothing.

    Raises:
        ComelError: the cursor is none that a page gave.
    """
    wanted = select(table).where(*conditions).order_by(table.created.desc(), table.id.desc()).limit(limit + 1)
    if cursor is not None:
        created, identifier = _place(cursor)
        wanted = wanted.where(or_(table.created < created, and_(table.created == created, table.id < identifier)))
    rows = list(session.execute(wanted).scalars())
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], None if last is None else _cursor(last.created, last.id))


def _cursor(created: float, identifier: str) -> str:
    return base64.urlsafe_b64encode(f"{created!r} {identifier}".encode()).decode()


def _place(cursor: str) -> tuple[float, str]:
    try:
        created, identifier = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode("ascii").split(" ")
        if not (math.isfinite(float(created)) and is_id(identifier)):
            raise ValueError("no place")
        return float(created), identifier
    except (binascii.Error, ValueError):
        raise ComelError("the cursor is none of this list's", "use the 'next' of a page as it is") from None
