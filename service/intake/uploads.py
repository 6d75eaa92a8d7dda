"""Files that arrive in parts and resume after a break: rows of the table ``uploads``, and ``<state_dir>/uploads/<id>/<name>``.

A part counts once it is on the disk and its row is committed; an interrupted client asks for the offset and resumes there. Of
several processes that serve one at a time receives a part of an upload: it holds a lock on the file ``.lock`` beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
from sqlalchemy import func, select

from comel.base.files import sha256_of_file
from comel.errors import ComelError
from service.db.database import Database
from service.db.tables import Upload
from service.errors import ConflictError, NoRoomError, NotFoundError, TooLargeError, needing_room
from service.ids import is_id, new_id
from service.intake.bodies import safe_name
from service.intake.quotas import Quotas
from service.paths import UPLOADS, take_away
from service.settings import ServiceSettings

__all__ = ["UPLOADS", "UploadStore"]

SILENT_SECONDS = 20.0
"""Seconds that a client sending a part may be silent."""
_ROOM_LOCK = 7_023_103
_REMEDY = "use an id that POST /v1/uploads gave, before the upload expires"


@dataclass(frozen=True)
class _Part:
    upload: Upload
    path: Path
    offset: int
    file: BinaryIO
    lock: int


class UploadStore:
    """Uploads of one service. Files lie below ``folder``.

    Args:
        database: the database with the rows.
        settings: the service's.
        look: returns the kind of a complete file, ``bag`` or ``slide``, or raises a ComelError.
    """

    def __init__(self, database: Database, settings: ServiceSettings, look: Callable[[Path], str]) -> None:
        self._database, self._settings, self._look = database, settings, look
        self._quotas = Quotas(settings)
        self.folder = settings.state_dir / UPLOADS
        self._busy: set[str] = set()

    def create(
        self, filename: str, size: int, sha256: str | None, key: str | None, *, record: Callable[[], None] = lambda: None
    ) -> Upload:
        """Begin an upload; ``record`` is called before it takes effect.

        Raises:
            TooLargeError: larger than an upload may be, or than the quota of the service or the key has left.
            NoRoomError: larger than what the disk has free.
            BusyError: too many of the key's uploads are not complete.
        """
        if size > (most := self._settings.max_slide_bytes):
            raise TooLargeError(f"an upload of {size} bytes", f"at most {most} are taken")
        with needing_room():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            upload = Upload(id=new_id(), name=safe_name(filename), size=size, sha256=sha256, offset=0, key=key)
            folder = self.folder / upload.id
            try:
                with self._database.writing() as session:
                    self._database.lock(session, _ROOM_LOCK)
                    self._quotas.check_uploads(session, key)
                    if size > shutil.disk_usage(self.folder).free:
                        raise NoRoomError
                    self._check_quotas(session, key, size)
                    upload.created = self._database.now(session)
                    upload.expires = upload.created + self._settings.upload_hours * 3600
                    folder.mkdir(mode=0o700)
                    (folder / upload.name).touch(mode=0o600)
                    session.add(upload)
                    session.flush()
                    record()
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return upload

    async def append(self, identifier: str, offset: int, body: AsyncIterable[bytes]) -> Upload:
        """Add a part. One that was sent before is refused with the offset where the next one begins.

        Raises:
            NotFoundError: there is no such upload.
            ConflictError: the part does not begin where the last one ended, or another part is being received.
            TooLargeError: the part is too long, or exceeds the upload's size or the quota.
            NoRoomError: the disk is full.
            ComelError: the file is complete, but differs from the announcement or has an unsupported kind; it is removed.
        """
        if identifier in self._busy:
            begun = await anyio.to_thread.run_sync(self.get, identifier)
            raise _busy(begun.offset)
        self._busy.add(identifier)
        try:
            with needing_room():
                part = await anyio.to_thread.run_sync(self._begin, identifier, offset)
                try:
                    received = await self._receive(part, body)
                    return await anyio.to_thread.run_sync(self._end, part, offset + received)
                except BaseException:
                    with suppress(OSError):  # uncounted data takes no space
                        part.file.truncate(part.offset)
                    raise
                finally:
                    with suppress(OSError):  # it was flushed already
                        part.file.close()
                    os.close(part.lock)
        finally:
            self._busy.discard(identifier)

    async def _receive(self, part: _Part, body: AsyncIterable[bytes]) -> int:
        """Write a part's bytes at their place; returns their number."""
        received, most = 0, min(self._settings.upload_part_bytes, part.upload.size - part.offset)
        blocks = aiter(body)
        # The remains of an interrupted part are overwritten.
        part.file.truncate(part.offset)
        part.file.seek(part.offset)
        while True:
            # A client that lost its network is silent, and must not lock its upload against its own return.
            with anyio.move_on_after(SILENT_SECONDS) as patience:
                block = await anext(blocks, b"")
            if patience.cancelled_caught:
                said = f"nothing of the part arrived for {SILENT_SECONDS:g} s"
                raise ConflictError(said, "send it again", offset=part.offset)
            if not block:
                break
            received += len(block)
            if received > most:
                raise TooLargeError(f"the part is longer than {most} bytes", "send a shorter one")
            await anyio.to_thread.run_sync(part.file.write, block)
        await anyio.to_thread.run_sync(_flush, part.file)
        return received

    def get(self, identifier: str) -> Upload:
        """An upload and its progress.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            upload = session.get(Upload, identifier) if is_id(identifier) else None
            if upload is None or upload.expires < self._database.now(session):
                raise NotFoundError("there is no upload of this id", _REMEDY)
            return upload

    def path(self, upload: Upload) -> Path:
        """The path of its file."""
        return self.folder / upload.id / upload.name

    def delete(self, identifier: str, *, record: Callable[[], None] = lambda: None) -> None:
        """Remove an upload and its file; ``record`` is called before that takes effect.

        Raises:
            NotFoundError: there is none.
        """
        upload = self.get(identifier)
        aside = take_away(self.folder / upload.id)
        try:
            with self._database.writing() as session:
                session.delete(session.merge(upload))
                session.flush()
                record()
        except BaseException:
            if aside is not None:
                os.rename(aside, self.folder / upload.id)
            raise
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)

    def _begin(self, identifier: str, offset: int) -> _Part:
        begun = self.get(identifier)
        path = self.path(begun)
        if not path.is_file():
            # A restored database lists uploads whose files are not in the backup.
            self.delete(identifier)
            raise NotFoundError("there is no upload of this id", _REMEDY)
        try:
            lock = _locked(path.with_name(".lock"), begun.offset)
        except FileNotFoundError:  # it was deleted meanwhile
            raise NotFoundError("there is no upload of this id", _REMEDY) from None
        try:
            upload = self.get(identifier)  # its present state, now that no other process changes it
            if upload.offset != offset or upload.kind is not None:
                said = "the upload is complete" if upload.kind is not None else f"the next part begins at {upload.offset}"
                raise ConflictError(said, "ask for the upload to see its offset", offset=upload.offset)
            return _Part(upload, path, offset, open(path, "r+b"), lock)
        except BaseException:
            os.close(lock)
            raise

    def _end(self, part: _Part, offset: int) -> Upload:
        identifier = part.upload.id
        kind = None
        if offset == part.upload.size:
            try:
                kind = self._kind(part)
            except ComelError:
                self.delete(identifier)
                raise
        with self._database.writing() as session:
            self._database.lock(session, _ROOM_LOCK)
            upload = session.get(Upload, identifier, with_for_update=True)
            if upload is None:
                raise NotFoundError("there is no upload of this id", _REMEDY)
            if upload.offset != part.offset:
                # Another process accepted a part at the same place, on a file system without locks.
                said = f"the next part begins at {upload.offset}"
                raise ConflictError(said, "ask for the upload to see its offset", offset=upload.offset)
            self._check_quotas(session, upload.key, offset - part.offset)
            upload.offset, upload.kind = offset, kind
            upload.expires = self._database.now(session) + self._settings.upload_hours * 3600
            return upload

    def _kind(self, part: _Part) -> str:
        wanted = part.upload.sha256
        if wanted is not None and sha256_of_file(part.path) != wanted:
            raise ComelError(f"{part.upload.name}: the content does not have the announced sha256", "send it again")
        return self._look(part.path)

    def _check_quotas(self, session: Any, key: str | None, size: int) -> None:
        """Refuse bytes that would exceed the quota; merely announced data takes no space."""
        self._quotas.check(session, key, size)
        # Predictions make room for uploads: the housekeeper removes the oldest.
        most = self._settings.max_state_bytes
        received = session.execute(select(func.sum(Upload.offset))).scalar_one()
        if most is not None and int(received or 0) + size > most:
            raise TooLargeError("the service's quota is used up by uploads", "delete some, or ask its operator")


def _locked(path: Path, offset: int) -> int:
    """A descriptor that keeps other processes from this upload until it is closed.

    Raises:
        ConflictError: another process is receiving a part.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _busy(offset) from None
    except OSError:  # this file system has no locks
        pass
    return descriptor


def _busy(offset: int) -> ConflictError:
    said = "another part of this upload is being received"
    return ConflictError(said, f"send it again in {SILENT_SECONDS:g} s", offset=offset)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
