"""Quotas per API key: bytes received and predictions made; merely announced data does not count."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.db.tables import Job, PredictionRow, Upload
from service.errors import BusyError, TooLargeError
from service.settings import JobSettings

__all__ = ["Quotas"]


class Quotas:
    """The limits of one service's settings."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings

    def check(self, session: Session, key: str | None, more: int = 0) -> None:
        """Refuse ``more`` bytes that would exceed a key's quota.

        Raises:
            TooLargeError: the quota is used up.
        """
        most = self._settings.max_key_bytes
        if most is not None and used_bytes(session, key) + more > most:
            raise TooLargeError(f"the quota of this key, {most} bytes, is used up", "delete some, or ask its operator for more")

    def check_uploads(self, session: Session, key: str | None) -> None:
        """Refuse another upload of a key with too many incomplete ones.

        Raises:
            BusyError: there are too many.
        """
        most = self._settings.max_key_uploads
        count = select(func.count()).where(Upload.key.is_not_distinct_from(key), Upload.kind.is_(None))
        if session.execute(count).scalar_one() >= most:
            raise BusyError(f"{most} uploads of this key are not complete", "complete or delete one")


def used_bytes(session: Session, key: str | None) -> int:
    """A key's bytes: received parts of uploads, predictions with their bags, and bags of jobs that have not ended."""
    uploads = session.execute(select(func.sum(Upload.offset)).where(Upload.key.is_not_distinct_from(key))).scalar_one()
    predictions = session.execute(
        select(func.sum(PredictionRow.size)).where(PredictionRow.key.is_not_distinct_from(key))
    ).scalar_one()
    jobs = select(Job.source).where(Job.state.in_(("queued", "running")), Job.key.is_not_distinct_from(key))
    waiting = sum(int(source.get("bytes", 0)) for source in session.execute(jobs).scalars())
    return int(uploads or 0) + int(predictions or 0) + waiting
