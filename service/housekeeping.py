"""What is removed by itself: expired uploads, old predictions and jobs, and whatever a killed process left behind."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import SQLAlchemyError

from service.db.database import Database
from service.db.tables import ENDED, IdempotencyKey, Job, PredictionRow, Upload
from service.jobs.sources import INBOX
from service.logs import describe_defect
from service.paths import UPLOADS
from service.predictions.folder import PARTIAL, REMOVED, remove_folder
from service.predictions.work import PREDICTIONS
from service.settings import ServiceSettings

__all__ = ["Housekeeper", "clean"]

_EVERY_SECONDS = 300.0
_DAY = 86_400.0


class Housekeeper(threading.Thread):
    """Cleans every five minutes until it is stopped. Several processes may have one."""

    def __init__(self, database: Database, settings: ServiceSettings, *, log: Any) -> None:
        super().__init__(name="comel-housekeeper", daemon=True)
        self._database, self._settings, self._log = database, settings, log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Clean no more."""
        self._stopping.set()

    def run(self) -> None:
        """See the class."""
        while True:
            try:
                removed = clean(self._database, self._settings)
                if any(removed.values()):
                    self._log.info("cleaned", **removed)
            except (SQLAlchemyError, OSError) as error:
                self._log.error("cleaning failed", **describe_defect(error))
            if self._stopping.wait(_EVERY_SECONDS):
                return


def clean(database: Database, settings: ServiceSettings, *, left_behind_seconds: float = _DAY) -> dict[str, int]:
    """Remove what is due, once; says how much of each kind that was.

    A folder that no row names is removed when it is older than ``left_behind_seconds``: a worker may be about to finish it.

    Rows go before their folders: a folder without a row is removed later, a row without its folder would be a broken promise.
    """
    predictions, uploads = settings.state_dir / PREDICTIONS, settings.state_dir / UPLOADS
    old, expired = _old_predictions(database, settings), _expired_uploads(database)
    for identifier in old:
        remove_folder(predictions / identifier)
    for identifier in expired:
        shutil.rmtree(uploads / identifier, ignore_errors=True)
    jobs = _old_jobs(database, settings)
    return {
        "predictions": len(old),
        "uploads": len(expired),
        "jobs": jobs,
        "left_behind": _left_behind(database, settings.state_dir, left_behind_seconds),
    }


def _old_predictions(database: Database, settings: ServiceSettings) -> list[str]:
    """Forget predictions that are too old, then the oldest until the rest fits; their ids."""
    removed: list[str] = []
    with database.writing() as session:
        now = database.now(session)
        if settings.keep_days is not None:
            too_old = PredictionRow.created < now - settings.keep_days * _DAY
            removed += session.execute(select(PredictionRow.id).where(too_old)).scalars()
        if settings.max_state_bytes is not None:
            waiting = int(session.execute(select(func.sum(Upload.size))).scalar_one() or 0)
            room = settings.max_state_bytes - waiting
            newest_first = select(PredictionRow.id, PredictionRow.size).order_by(
                PredictionRow.created.desc(), PredictionRow.id.desc()
            )
            for identifier, size in session.execute(newest_first):
                room -= size
                if room < 0 and identifier not in removed:
                    removed.append(identifier)
        for start in range(0, len(removed), 500):
            session.execute(delete(PredictionRow).where(PredictionRow.id.in_(removed[start : start + 500])))
    return removed


def _expired_uploads(database: Database) -> list[str]:
    """Forget uploads whose time is over, but not one that a job still needs; their ids."""
    with database.writing() as session:
        open_jobs = session.execute(select(Job.source).where(Job.state.in_(("queued", "running")))).scalars()
        needed = {source["upload"] for source in open_jobs if "upload" in source}
        over = session.execute(select(Upload.id).where(Upload.expires < database.now(session))).scalars()
        expired = [identifier for identifier in over if identifier not in needed]
        session.execute(delete(Upload).where(Upload.id.in_(expired)))
    return expired


def _old_jobs(database: Database, settings: ServiceSettings) -> int:
    """Forget ended jobs that are too old, and idempotency keys after a day or as long as jobs are kept."""
    with database.writing() as session:
        now = database.now(session)
        keep = (settings.keep_days or 1) * _DAY
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created < now - keep))
        if settings.keep_days is None:
            return 0
        ended = delete(Job).where(Job.state.in_(ENDED), Job.finished < now - keep)
        return int(session.execute(ended).rowcount)  # type: ignore[attr-defined]


def _left_behind(database: Database, state_dir: Path, seconds: float) -> int:
    """Remove folders that no row names, once they are old enough to be nobody's work in progress."""
    with database.reading() as session:
        open_jobs = set(session.execute(select(Job.id).where(Job.state.in_(("queued", "running")))).scalars())
        named = {
            PREDICTIONS: set(session.execute(select(PredictionRow.id)).scalars()) | open_jobs,
            UPLOADS: set(session.execute(select(Upload.id)).scalars()),
            INBOX: open_jobs,
        }
    removed = 0
    for place, names in named.items():
        folder = state_dir / place
        for path in folder.iterdir() if folder.is_dir() else ():
            half = path.name.startswith((PARTIAL, REMOVED))
            if (half or path.name not in names) and _age(path) > seconds:
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
    return removed


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
