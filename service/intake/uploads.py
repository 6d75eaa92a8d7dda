"""Files that arrive in parts and go on after a break: rows of the table ``uploads``, and ``<state_dir>/uploads/<id>/<name>``.

A part counts once it is on the disk and its row is committed; whoever was cut off asks for the offset and goes on there.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import func, select

from comel.base.files import sha256_of_file
from comel.errors import ComelError
from service.db.database import Database
from service.db.tables import Upload
from service.errors import ConflictError, NotFoundError, TooLargeError
from service.ids import is_id, new_id
from service.intake.bodies import safe_name
from service.paths import UPLOADS
from service.settings import ServiceSettings

__all__ = ["UPLOADS", "UploadStore"]

SILENT_SECONDS = 30.0
"""How long a client that sends a part may say nothing."""
_ROOM_LOCK = 7_023_103
_REMEDY = "use an id that POST /v1/uploads gave, before the upload expires"


@dataclass(frozen=True)
class _Part:
    upload: Upload
    path: Path
    offset: int


class UploadStore:
    """Uploads of one service. Files lie below ``folder``.

    Args:
        database: where the rows are.
        settings: the service's.
        look: says what a whole file is, ``bag`` or ``slide``, or raises a ComelError.
    """

    def __init__(self, database: Database, settings: ServiceSettings, look: Callable[[Path], str]) -> None:
        self._database, self._settings, self._look = database, settings, look
        self.folder = settings.state_dir / UPLOADS
        self._busy: set[str] = set()

    def create(self, filename: str, size: int, sha256: str | None, key: str | None) -> Upload:
        """Begin an upload.

        Raises:
            TooLargeError: larger than an upload may be, or than there is room for.
        """
        if size > (most := self._settings.max_slide_bytes):
            raise TooLargeError(f"an upload of {size} bytes", f"at most {most} are taken")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._database.writing() as session:
            self._database.lock(session, _ROOM_LOCK)
            self._make_room(session, size)
            now = self._database.now(session)
            upload = Upload(
                id=new_id(),
                name=safe_name(filename),
                size=size,
                sha256=sha256,
                offset=0,
                key=key,
                created=now,
                expires=now + self._settings.upload_hours * 3600,
            )
            folder = self.folder / upload.id
            folder.mkdir(mode=0o700)
            (folder / upload.name).touch(mode=0o600)
            session.add(upload)
        return upload

    async def append(self, identifier: str, offset: int, body: AsyncIterable[bytes]) -> Upload:
        """Add a part. One that was sent before is refused with the offset where the next one begins.

        Raises:
            NotFoundError: there is no such upload.
            ConflictError: the part does not begin where the last one ended, or another part is being received.
            TooLargeError: the part is too long, or goes beyond the upload's size.
            ComelError: the file is whole, but is not what was announced or is of no kind that is taken; it is removed.
        """
        if identifier in self._busy:
            begun = await anyio.to_thread.run_sync(self.get, identifier)
            said = "another part of this upload is being received"
            raise ConflictError(said, f"send it again in {SILENT_SECONDS:g} s", offset=begun.offset)
        self._busy.add(identifier)
        try:
            part = await anyio.to_thread.run_sync(self._begin, identifier, offset)
            received = await self._receive(part, body)
            return await anyio.to_thread.run_sync(self._end, part, offset + received)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise TooLargeError("there is no room on the service's disk", "send it later, or ask its operator") from None
        finally:
            self._busy.discard(identifier)

    async def _receive(self, part: _Part, body: AsyncIterable[bytes]) -> int:
        """Write a part's bytes where they belong; how many there were."""
        received, most = 0, min(self._settings.upload_part_bytes, part.upload.size - part.offset)
        blocks = aiter(body)
        with open(part.path, "r+b") as file:
            # What a part that broke off left behind is overwritten.
            file.truncate(part.offset)
            file.seek(part.offset)
            while True:
                # A client whose network went away says nothing, and must not lock its upload against its own return.
                with anyio.move_on_after(SILENT_SECONDS) as patience:
                    block = await anext(blocks, b"")
                if patience.cancelled_caught:
                    said = f"nothing of the part arrived for {SILENT_SECONDS:g} s"
                    raise ConflictError(said, "send it again", offset=part.offset)
                if not block:
                    break
                received += len(block)
                if received > most:
                    file.truncate(part.offset)
                    raise TooLargeError(f"the part is longer than {most} bytes", "send a shorter one")
                await anyio.to_thread.run_sync(file.write, block)
            file.flush()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
        return received

    def get(self, identifier: str) -> Upload:
        """An upload and how far it is.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            upload = session.get(Upload, identifier) if is_id(identifier) else None
            if upload is None or upload.expires < self._database.now(session):
                raise NotFoundError("there is no upload of this id", _REMEDY)
            return upload

    def path(self, upload: Upload) -> Path:
        """Where its file lies."""
        return self.folder / upload.id / upload.name

    def delete(self, identifier: str) -> None:
        """Forget an upload and its file.

        Raises:
            NotFoundError: there is none.
        """
        upload = self.get(identifier)
        with self._database.writing() as session:
            session.delete(session.merge(upload))
        shutil.rmtree(self.folder / upload.id, ignore_errors=True)

    def _begin(self, identifier: str, offset: int) -> _Part:
        upload = self.get(identifier)
        if upload.offset != offset or upload.kind is not None:
            said = "the upload is complete" if upload.kind is not None else f"the next part begins at {upload.offset}"
            raise ConflictError(said, "ask for the upload to see its offset", offset=upload.offset)
        path = self.path(upload)
        if not path.is_file():
            # A restored database knows uploads whose files no backup has.
            self.delete(identifier)
            raise NotFoundError("there is no upload of this id", _REMEDY)
        return _Part(upload, path, offset)

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
            upload = session.get(Upload, identifier, with_for_update=True)
            if upload is None:
                raise NotFoundError("there is no upload of this id", _REMEDY)
            if upload.offset != part.offset:
                # Another process of the service took a part at the same place.
                said = f"the next part begins at {upload.offset}"
                raise ConflictError(said, "ask for the upload to see its offset", offset=upload.offset)
            upload.offset, upload.kind = offset, kind
            upload.expires = self._database.now(session) + self._settings.upload_hours * 3600
            return upload

    def _kind(self, part: _Part) -> str:
        wanted = part.upload.sha256
        if wanted is not None and sha256_of_file(part.path) != wanted:
            raise ComelError(f"{part.upload.name}: the content does not have the announced sha256", "send it again")
        return self._look(part.path)

    def _make_room(self, session: Any, size: int) -> None:
        """Refuse what would not fit; what other uploads still have to receive is taken for used."""
        announced, received = session.execute(select(func.sum(Upload.size), func.sum(Upload.offset))).one()
        free = shutil.disk_usage(self.folder).free - (int(announced or 0) - int(received or 0))
        if size > free:
            raise TooLargeError("there is no room on the service's disk", "send it later, or ask its operator")
        # Predictions make room for uploads: the housekeeper removes the oldest.
        most = self._settings.max_state_bytes
        if most is not None and int(announced or 0) + size > most:
            raise TooLargeError("the service's quota is used up by uploads", "delete some, or ask its operator")
