"""Automatic removal of expired uploads, old predictions and jobs, and whatever a killed process left unfinished.

Only what the database knows to be over is deleted, and the audit log records it. Files in the state folder without a row
are not deleted: a prediction is added to the list, anything else is moved to ``<state_dir>/set-aside``.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update

from comel.errors import ComelError
from service.access.audit import AuditLog
from service.db.database import Database
from service.db.tables import ENDED, IdempotencyKey, Job, PredictionRow, Upload
from service.ids import is_id
from service.jobs.sources import INBOX
from service.logs import describe_defect
from service.paths import PARTIAL, REMOVED, UPLOADS, remove_folder, removed_id
from service.predictions.folder import read_origin
from service.predictions.store import PredictionStore, row_of
from service.predictions.work import PREDICTIONS, made_of
from service.settings import ServiceSettings

__all__ = ["SET_ASIDE", "Housekeeper", "clean", "take_in"]

SET_ASIDE = "set-aside"
_EVERY_SECONDS = 300.0
_DAY = 86_400.0
_AT_ONCE = 100


class Housekeeper(threading.Thread):
    """Cleans up every five minutes until stopped. Several processes may have one."""

    def __init__(self, database: Database, settings: ServiceSettings, *, audit: AuditLog, log: Any) -> None:
        super().__init__(name="comel-housekeeper", daemon=True)
        self._database, self._settings, self._audit, self._log = database, settings, audit, log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop cleaning."""
        self._stopping.set()

    def run(self) -> None:
        """See the class."""
        while True:
            try:
                done = clean(self._database, self._settings, self._audit)
                if any(done.values()):
                    self._log.info("cleaned", **done)
            except Exception as error:  # one unforeseen failure must not end all later rounds
                self._log.error("cleaning failed", **describe_defect(error))
            if self._stopping.wait(_EVERY_SECONDS):
                return


def clean(
    database: Database, settings: ServiceSettings, audit: AuditLog, *, left_behind_seconds: float = _DAY
) -> dict[str, int]:
    """Remove what is due, once; returns the number of each kind.

    Files without a row are handled when older than ``left_behind_seconds``: a worker may be about to finish them.

    Raises:
        WrongDatabase: the database is not that of the state folder; nothing was removed.
        ComelError: the audit log cannot be written; anything not logged was not removed.
    """
    audit.reserve.refill()
    _mend_times(database, settings)
    store = PredictionStore(database, settings.state_dir)
    predictions = 0
    for reason, due in _old_predictions(database, settings):
        for start in range(0, len(due), _AT_ONCE):
            some = due[start : start + _AT_ONCE]
            lines = [{"prediction": identifier, "by": reason} for identifier in some]
            store.delete(some, record=lambda lines=lines: _write(audit, lines))  # type: ignore[misc]
            predictions += len(some)
    done = {
        "predictions": predictions,
        "uploads": _expired_uploads(database, settings, audit),
        "jobs": _old_jobs(database, settings, audit),
        "left_behind": _left_behind(database, settings.state_dir, audit, left_behind_seconds),
    }
    return done | take_in(database, settings, audit, older_than=left_behind_seconds)


def take_in(database: Database, settings: ServiceSettings, audit: AuditLog, *, older_than: float = -_DAY) -> dict[str, int]:
    """Add unlisted predictions in the state folder to the list; set aside everything else without a row.

    Args:
        database: the state folder's database.
        settings: the service's.
        audit: records every prediction added, and everything set aside.
        older_than: seconds for which a folder must have been unchanged.
    """
    counted = {"adopted": 0, "set_aside": 0}
    for place in (PREDICTIONS, UPLOADS, INBOX):
        folder = settings.state_dir / place
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not is_id(path.name) or _age(path) <= older_than or _is_known(database, place, path.name):
                continue
            if place == PREDICTIONS and _adopt(database, path, audit):
                counted["adopted"] += 1
            else:
                _set_aside(settings.state_dir, path, audit)
                counted["set_aside"] += 1
    return counted


def _is_known(database: Database, place: str, identifier: str) -> bool:
    table = {PREDICTIONS: PredictionRow, UPLOADS: Upload, INBOX: Job}[place]
    with database.reading() as session:
        database.expect(session)
        if session.get(table, identifier) is not None:
            return True
        job = session.get(Job, identifier)
        # A job's result exists before its row; the result of a job that failed after all goes with its remains.
        return place == PREDICTIONS and job is not None and job.state != "done"


def _adopt(database: Database, folder: Path, audit: AuditLog) -> bool:
    """Make a row of a prediction's folder; False if it is damaged."""
    try:
        made, origin = made_of(folder.name, folder), read_origin(folder)
    except (ComelError, OSError):
        return False
    source, key = origin.get("source"), origin.get("key")
    row = row_of(
        made,
        str(origin.get("model") or made.run)[:128],
        source if isinstance(source, dict) else {},
        key[:64] if isinstance(key, str) else None,
    )
    with database.writing() as session:
        database.expect(session)
        row.created = min(database.now(session), (folder / "prediction.json").stat().st_mtime)
        session.add(row)
        session.flush()
        audit.record("adopt", key=None, outcome="done", prediction=folder.name)
    return True


def _set_aside(state_dir: Path, path: Path, audit: AuditLog) -> None:
    place = state_dir / SET_ASIDE / path.parent.name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    audit.record("set-aside", key=None, outcome="done", place=path.parent.name, id=path.name)
    target = place / path.name
    while target.exists():
        target = target.with_name(f"{target.name}.again")
    os.rename(path, target)


def _mend_times(database: Database, settings: ServiceSettings) -> None:
    """Set times in the future to now: they were written before the clock was set back, and would expire too late."""
    with database.writing() as session:
        database.expect(session)
        now = database.now(session)
        latest = now + settings.upload_hours * 3600
        session.execute(update(Upload).where(Upload.expires > latest).values(expires=latest))
        for table, column in (
            (Upload, Upload.created),
            (PredictionRow, PredictionRow.created),
            (IdempotencyKey, IdempotencyKey.created),
            (Job, Job.finished),
        ):
            session.execute(update(table).where(column > now + 1).values({column: now}))


def _old_predictions(database: Database, settings: ServiceSettings) -> list[tuple[str, list[str]]]:
    """Predictions that are too old, then the oldest until the rest fits: the responsible setting, and their ids."""
    old: list[str] = []
    beyond: list[str] = []
    with database.reading() as session:
        database.expect(session)
        if settings.keep_days is not None:
            too_old = PredictionRow.created < database.now(session) - settings.keep_days * _DAY
            old += session.execute(select(PredictionRow.id).where(too_old)).scalars()
        if settings.max_state_bytes is not None:
            # Announced data that has not arrived takes no space.
            received = int(session.execute(select(func.sum(Upload.offset))).scalar_one() or 0)
            room = settings.max_state_bytes - received
            newest_first = select(PredictionRow.id, PredictionRow.size).order_by(
                PredictionRow.created.desc(), PredictionRow.id.desc()
            )
            gone = set(old)
            for identifier, size in session.execute(newest_first):
                room -= size
                if room < 0 and identifier not in gone:
                    beyond.append(identifier)
    return [("keep_days", old), ("max_state_bytes", beyond)]


def _expired_uploads(database: Database, settings: ServiceSettings, audit: AuditLog) -> int:
    """Remove expired uploads, except those that a job still needs."""
    with database.writing() as session:
        database.expect(session)
        open_jobs = session.execute(select(Job.source).where(Job.state.in_(("queued", "running")))).scalars()
        needed = {source["upload"] for source in open_jobs if "upload" in source}
        over = session.execute(select(Upload.id).where(Upload.expires < database.now(session))).scalars()
        expired = [identifier for identifier in over if identifier not in needed]
        for start in range(0, len(expired), _AT_ONCE):
            session.execute(delete(Upload).where(Upload.id.in_(expired[start : start + _AT_ONCE])))
        _write(audit, [{"upload": identifier, "by": "upload_hours"} for identifier in expired])
        # Before the rows are gone: a folder without a row would be taken for one that the database lost.
        for identifier in expired:
            remove_folder(settings.state_dir / UPLOADS / identifier)
    return len(expired)


def _old_jobs(database: Database, settings: ServiceSettings, audit: AuditLog) -> int:
    """Remove ended jobs that are too old, and idempotency keys after a day or as long as jobs are kept."""
    with database.writing() as session:
        database.expect(session)
        now = database.now(session)
        keep = (settings.keep_days or 1) * _DAY
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created < now - keep))
        if settings.keep_days is None:
            return 0
        ended = delete(Job).where(Job.state.in_(ENDED), Job.finished < now - keep)
        count = int(session.execute(ended).rowcount)  # type: ignore[attr-defined]
        _write(audit, [{"jobs": count, "by": "keep_days"}] if count else [])
        return count


def _left_behind(database: Database, state_dir: Path, audit: AuditLog, seconds: float) -> int:
    """Delete whatever a killed process was writing or deleting, and the remains of failed jobs."""
    removed = 0
    for place in (PREDICTIONS, UPLOADS, INBOX):
        folder = state_dir / place
        for path in folder.iterdir() if folder.is_dir() else ():
            if _age(path) <= seconds or not _is_over(database, place, path, audit):
                continue
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed


def _is_over(database: Database, place: str, path: Path, audit: AuditLog) -> bool:
    if path.name.startswith(PARTIAL):
        return True
    if path.name.startswith(REMOVED):
        # The deleting process was stopped before the row was gone.
        with database.writing() as session:
            database.expect(session)
            row = session.get(PredictionRow, removed_id(path))
            if row is not None:
                audit.record("delete", key=None, outcome="done", prediction=row.id, by="begun before")
                session.delete(row)
        return True
    if place == UPLOADS or not is_id(path.name):
        return False
    with database.reading() as session:
        database.expect(session)
        job, row = session.get(Job, path.name), session.get(PredictionRow, path.name)
    if job is None or (place == PREDICTIONS and row is not None):
        return False
    return job.state in (ENDED if place == INBOX else ("failed", "cancelled"))


def _write(audit: AuditLog, facts: Sequence[dict[str, Any]]) -> None:
    if facts:
        audit.record_all("delete", key=None, outcome="done", facts=facts)


def _age(path: Path) -> float:
    """Seconds since a file was changed; or until that time, if the clock was set back since."""
    try:
        return abs(time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0
