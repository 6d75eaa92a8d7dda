"""Who predicted and read what, with which model: one JSON line each in ``<state_dir>/audit.jsonl``, append-only.

A line is written completely or not at all, and an action that must be logged is not done if the log cannot be written. So that
a full disk does not prevent deleting, a file ``reserve`` holds some space that is then released.

No line has a file name or a slide's name. A slide is named by a keyed hash of its name: anyone with the slide's name and the
state folder's ``pseudonym.key`` can find its lines; without that key a list of guessed names does not help.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from comel.errors import ComelError, ConfigError
from service.errors import NoRoomError, NotReadyError, is_full

__all__ = ["Action", "AuditLog", "Recording", "Reserve", "outcome_of"]

Action = Literal[
    "predict", "read", "cancel", "delete", "upload", "model", "key-add", "key-revoke", "refuse", "adopt", "set-aside"
]
_PSEUDONYM_BYTES = 32
_LOCK_SECONDS = 2.0
_LONGEST_LINE = 1 << 16


class AuditLog:
    """Appends lines; safe across threads and processes.

    Raises:
        ConfigError: ``pseudonym.key`` is damaged or cannot be made.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "audit.jsonl"
        self.reserve = Reserve(state_dir)
        self._secret = _pseudonym_key(state_dir / "pseudonym.key")

    def pseudonym(self, slide: str) -> str:
        """A slide's name here and in the log: 128 bits of BLAKE2b over its name, keyed with ``pseudonym.key``."""
        return hashlib.blake2b(slide.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).hexdigest()

    def record(self, action: Action, *, key: str | None, outcome: str, **facts: Any) -> None:
        """Append one line and flush it to disk; ``None`` among the facts is kept as null.

        Raises:
            NoRoomError: the disk is full.
            NotReadyError: the log cannot be written for another reason.
        """
        self.record_all(action, key=key, outcome=outcome, facts=[facts])

    def record_all(self, action: Action, *, key: str | None, outcome: str, facts: Sequence[dict[str, Any]]) -> None:
        """Append a line for each of ``facts``, all or none; see :meth:`record`."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action, "key": key, "outcome": outcome}
        content = b"".join(json.dumps(line | more, allow_nan=False).encode() + b"\n" for more in facts)
        try:
            try:
                _append(self.path, content)
            except OSError as error:
                # A reader may use the space beyond the share reserved for deleting.
                if not is_full(error) or not self.reserve.lend(len(content), last=action in ("delete", "cancel")):
                    raise
                _append(self.path, content)
        except OSError as error:
            if is_full(error):
                raise NoRoomError from None
            said = f"the audit log cannot be written ({os.strerror(error.errno or 0)})"
            raise NotReadyError(said, "ask the service's operator") from None

    @contextmanager
    def recorded(self, action: Action, *, key: str | None, **facts: Any) -> Iterator[Recording]:
        """Record the outcome of the block, including an error.

        Before any permanent effect, the block must call the yielded function, which writes the line.
        """
        recording = Recording(self, action, key, facts)
        try:
            yield recording
        except BaseException as error:
            self.record(action, key=key, **outcome_of(error), **facts)
            raise
        recording()


class Recording:
    """Writes the line of an action about to be done, once, however often it is called."""

    def __init__(self, log: AuditLog, action: Action, key: str | None, facts: dict[str, Any]) -> None:
        self._log, self._action, self._key, self._facts, self._written = log, action, key, facts, False

    def __call__(self) -> None:
        if not self._written:
            self._log.record(self._action, key=self._key, outcome="done", **self._facts)
            self._written = True


class Reserve:
    """Disk space in the state folder reserved for log lines and for deleting.

    Args:
        state_dir: the state folder.
        size: bytes of the file when nothing is lent.
    """

    def __init__(self, state_dir: Path, size: int = 1 << 20) -> None:
        self._path, self._size = state_dir / "reserve", size

    def lend(self, size: int = 0, *, last: bool = False) -> bool:
        """Release at least ``size`` bytes of the file; returns whether there were any.

        Half of it is reserved for deleting (``last``).
        """
        size = max(size, _LONGEST_LINE)
        try:
            held = self._path.stat().st_size
            left = max(0, held - size)
            if not held or (left < self._size // 2 and not last):
                return False
            os.truncate(self._path, left)
        except OSError:
            return False
        return True

    def refill(self) -> None:
        """Take back lent space once the disk has room again."""
        try:
            held = self._path.stat().st_size if self._path.exists() else 0
            if held >= self._size or shutil.disk_usage(self._path.parent).free < 4 * self._size:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError:
            return  # a disk that cannot hold it now may later

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lend some space while the block deletes: a database also needs a little to delete a row."""
        with suppress(OSError):
            if shutil.disk_usage(self._path.parent).free < self._size // 4:
                self.lend(self._size // 4, last=True)
        try:
            yield
        finally:
            self.refill()


def outcome_of(error: BaseException) -> dict[str, str]:
    """The outcome of a request that ended in ``error``, without the error's text, which may name a file."""
    outcome = "refused" if isinstance(error, (ComelError, HTTPException, ClientDisconnect)) else "failed"
    return {"outcome": outcome, "reason": type(error).__name__}


def _append(path: Path, content: bytes) -> None:
    """Append whole lines to a file and flush them; on failure the file ends as before."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(descriptor)
        size, content = _whole_lines(descriptor, content)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # an append-only file keeps the part; the next line ends it
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Keep other writers out, without waiting for a frozen one: a line is a single write anyway."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # this file system has no locks
            return


def _whole_lines(descriptor: int, content: bytes) -> tuple[int, bytes]:
    """The file's size and what to append to it, after removing a partial line left by a power cut."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size, content
    start = max(0, size - _LONGEST_LINE)
    whole = start + os.pread(descriptor, size - start, start).rfind(b"\n") + 1
    try:
        if whole > start or start == 0:
            os.ftruncate(descriptor, whole)
            return whole, content
    except OSError:  # append-only
        pass
    return size, b"\n" + content


def _pseudonym_key(path: Path) -> bytes:
    try:
        if not path.exists():
            _make_key(path)
        content = path.read_bytes()
    except OSError as error:
        said = f"{path}: cannot be used ({os.strerror(error.errno or 0)})"
        raise ConfigError(said, "check the state folder's permissions and its disk") from None
    if len(content) != _PSEUDONYM_BYTES:
        raise ConfigError(f"{path}: is {len(content)} bytes, not {_PSEUDONYM_BYTES}", "restore it from a copy")
    return content


def _make_key(path: Path) -> None:
    # Written under another name and linked, so that if two processes start at once, one wins and both read the same.
    partial = path.with_name(f".partial-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(_PSEUDONYM_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
