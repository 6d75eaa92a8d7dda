"""Who predicted and read what, with which model: one JSON line each in ``<state_dir>/audit.jsonl``, only ever appended.

No line has a file name or a slide's name. A slide is named by a keyed hash of its name: whoever has the slide's name and the
state folder's ``pseudonym.key`` finds its lines; without that key a list of guessed names does not help.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from comel.errors import ComelError, ConfigError

__all__ = ["Action", "AuditLog", "outcome_of"]

Action = Literal["predict", "read", "cancel", "delete", "upload", "model", "key-add", "key-revoke"]
_PSEUDONYM_BYTES = 32


class AuditLog:
    """Appends lines; safe from several threads and processes, since each line is one write.

    Raises:
        ConfigError: ``pseudonym.key`` is damaged.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "audit.jsonl"
        self._secret = _pseudonym_key(state_dir / "pseudonym.key")

    def pseudonym(self, slide: str) -> str:
        """What a slide is called here and in the log: 128 bits of BLAKE2b over its name, keyed with ``pseudonym.key``."""
        return hashlib.blake2b(slide.encode("utf-8", "replace"), key=self._secret, digest_size=16).hexdigest()

    def record(self, action: Action, *, key: str | None, outcome: str, **facts: Any) -> None:
        """Append one line and flush it to disk; ``None`` among the facts is kept as null."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action, "key": key, "outcome": outcome}
        content = json.dumps(line | facts, allow_nan=False).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError("the audit log took only a part of a line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def recorded(self, action: Action, *, key: str | None, **facts: Any) -> Iterator[None]:
        """Record what the block came to, an error included."""
        try:
            yield
        except BaseException as error:
            self.record(action, key=key, **outcome_of(error), **facts)
            raise
        self.record(action, key=key, outcome="done", **facts)


def outcome_of(error: BaseException) -> dict[str, str]:
    """What became of a request that ended in ``error``, without the error's text, which may name a file."""
    outcome = "refused" if isinstance(error, (ComelError, HTTPException, ClientDisconnect)) else "failed"
    return {"outcome": outcome, "reason": type(error).__name__}


def _pseudonym_key(path: Path) -> bytes:
    # Written under another name and linked, so that of two processes that start at once one wins and both read the same.
    if not path.exists():
        partial = path.with_name(f".partial-{secrets.token_hex(8)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(_PSEUDONYM_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    content = path.read_bytes()
    if len(content) != _PSEUDONYM_BYTES:
        raise ConfigError(f"{path}: is {len(content)} bytes, not {_PSEUDONYM_BYTES}", "restore it from a copy")
    return content
