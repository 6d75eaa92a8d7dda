"""Requests that may be sent again: the header ``Idempotency-Key``.

The first request with a key reserves it in the table ``idempotency_keys``, together with the id of what it will make. The same
request sent again leads to the same job or prediction; another body under the same key is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from comel.errors import ComelError
from service.db.database import Database
from service.db.tables import IdempotencyKey
from service.errors import ConflictError

__all__ = ["Reservation", "Reservations"]

Kind = Literal["job", "prediction"]


@dataclass(frozen=True)
class Reservation:
    """The key's owner, the key, and a SHA-256 of the whole request."""

    owner: str
    key: str
    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]{1,128}", self.key):
            raise ComelError("the Idempotency-Key is not 1 to 128 printable ASCII characters", "use a UUID, for example")


class Reservations:
    """The keys of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def made(self, wanted: Reservation) -> tuple[Kind, str] | None:
        """The result of an earlier request with this key: its kind and id; None if this is the first.

        Raises:
            ConflictError: that request had another body.
        """
        with self._database.reading() as session:
            row = session.get(IdempotencyKey, (wanted.owner, wanted.key))
        if row is None:
            return None
        if row.digest != wanted.digest:
            raise ConflictError("this Idempotency-Key was used with another request before", "use a new key for a new request")
        return ("job" if row.kind == "job" else "prediction"), row.made

    def reserve(self, wanted: Reservation, kind: Kind, identifier: str, session: Session) -> None:
        """Keep what the key stands for, once ``session`` is committed.

        Raises:
            sqlalchemy.exc.IntegrityError: another request with the key was faster; see :meth:`made`.
        """
        session.add(
            IdempotencyKey(
                owner=wanted.owner,
                key=wanted.key,
                digest=wanted.digest,
                kind=kind,
                made=identifier,
                created=self._database.now(session),
            )
        )
        session.flush()

    def release(self, wanted: Reservation) -> None:
        """Remove the key of a failed request, so that it may be tried again."""
        with self._database.writing() as session:
            row = session.get(IdempotencyKey, (wanted.owner, wanted.key))
            if row is not None and row.digest == wanted.digest:
                session.delete(row)
