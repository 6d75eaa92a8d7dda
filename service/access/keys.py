"""API keys. A key is shown once; the state folder keeps only a salted hash of it.

``<state_dir>/keys.json`` (mode 0600) holds a name, a scope, a salt and a hash for every key. A key is 256 random bits, so
nobody can try them all, however fast the hash: a slow password hash (scrypt) would add no protection and would let
anyone keep the service busy with wrong keys. BLAKE2b, salted and personalised, is therefore the hash.

``<state_dir>/keys.required`` records that there were keys: if ``keys.json`` is lost, the service still requires keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from comel.base.files import read_json, write_json
from comel.errors import ConfigError

__all__ = ["SCOPES", "Key", "KeyStore", "Scope", "is_loopback", "private_files", "private_folder"]

Scope = Literal["read", "predict", "manage", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "predict", "manage", "admin")
"""In rising order: each scope includes the ones before it."""

_PREFIX = "comel_"
_KEY_BYTES = 32
_FORMAT = 1
_LONGEST = 200
_OURS = {"audit.jsonl", "comel.db", "keys.json", "models.json", "predictions", "pseudonym.key", "state.id", "uploads"}


@dataclass(frozen=True)
class Key:
    """The stored record of a key, never the key itself.

    Attributes:
        name: the holder's name; the audit log shows it.
        scope: one of :data:`SCOPES`.
        salt: 16 random bytes, hexadecimal.
        hash: BLAKE2b-256 of the key with that salt, hexadecimal.
        created: UTC time, ISO 8601.
        revoked: UTC time from which it is refused, or None.
    """

    name: str
    scope: Scope
    salt: str
    hash: str
    created: str
    revoked: str | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether this key's scope includes ``scope``."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class KeyStore:
    """The keys of one state folder. Read again when the file has changed, so a revoked key is refused at once."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "keys.json"
        self._marker = state_dir / "keys.required"
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int, int], list[Key]] | None = None

    def exists(self) -> bool:
        """Whether a key was ever added, even if its file is lost."""
        return _is_there(self.path) or _is_there(self._marker)

    def lost(self) -> bool:
        """Whether there were keys, but their file is gone."""
        return not _is_there(self.path) and _is_there(self._marker)

    def remember(self) -> None:
        """Record that there are keys, also in a state folder of an earlier version."""
        if _is_there(self.path) and not _is_there(self._marker):
            with suppress(OSError):  # the next start tries again
                os.close(os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def all(self) -> list[Key]:
        """Every key, including revoked ones, in the order in which they were added.

        Raises:
            ConfigError: the file cannot be read; no request is then admitted.
        """
        with self._lock:
            try:
                about = self.path.stat()
            except FileNotFoundError:
                return []
            except OSError:
                raise self._unreadable() from None
            # The inode is included: a replaced file may have the old one's time and size.
            stamp = (about.st_ino, about.st_mtime_ns, about.st_size)
            if self._read is None or self._read[0] != stamp:
                self._read = stamp, self._load()
            return list(self._read[1])

    def active(self) -> list[Key]:
        """The valid keys."""
        return [key for key in self.all() if key.revoked is None]

    def add(self, name: str, scope: str, *, record: Callable[[], None] = lambda: None) -> str:
        """Create a key and return it; it cannot be obtained again. ``record`` is called before the key takes effect.

        Raises:
            ConfigError: the name or the scope cannot be used, or a key of this name exists (revoked or not: a name means
                one key, so that the audit log stays clear).
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ConfigError(f"{name[:80]!r} cannot name a key", "use up to 64 letters, digits, dots, hyphens and underscores")
        if scope not in SCOPES:
            raise ConfigError(f"there is no scope {scope[:80]!r}", f"give one of {', '.join(SCOPES)}")
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise ConfigError(f"there is a key '{name}' already, or there was", "give another name")
            secret = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
            salt = secrets.token_bytes(16)
            keys.append(Key(name, scope, salt.hex(), _hash(secret, salt).hex(), _now()))
            record()
        self.remember()
        return secret

    def revoke(self, name: str, *, record: Callable[[], None] = lambda: None) -> None:
        """Revoke a key; ``record`` is called before.

        Raises:
            ConfigError: there is no active key of this name.
        """
        with self._changing() as keys:
            for index, key in enumerate(keys):
                if key.name == name and key.revoked is None:
                    keys[index] = Key(**{**asdict(key), "revoked": _now()})
                    record()
                    return
            raise ConfigError(f"there is no active key '{name[:80]}'", "see the names with: comel keys list")

    def identify(self, presented: str) -> Key | None:
        """The active key that matches ``presented``, or None.

        Every active key is compared, each in constant time, so the time taken reveals nothing about near matches.
        """
        if not presented.isascii() or len(presented) > _LONGEST:
            return None
        found = None
        for key in self.active():
            if hmac.compare_digest(_hash(presented, bytes.fromhex(key.salt)), bytes.fromhex(key.hash)):
                found = key
        return found

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, written back on success; one command at a time changes them."""
        import fcntl

        private_folder(self.path.parent)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self.all()
            yield keys
            write_json(self.path, {"format": _FORMAT, "keys": [asdict(key) for key in keys]}, mode=0o600)
        finally:
            os.close(lock)

    def _load(self) -> list[Key]:
        try:
            content = read_json(self.path)
            if content["format"] != _FORMAT:
                raise ValueError("format")
            keys = [Key(**entry) for entry in content["keys"]]
            if any(key.scope not in SCOPES or len(bytes.fromhex(key.salt)) != 16 for key in keys):
                raise ValueError("key")
            if any(len(bytes.fromhex(key.hash)) != 32 for key in keys):
                raise ValueError("hash")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise self._unreadable() from None
        return keys

    def _unreadable(self) -> ConfigError:
        return ConfigError(f"{self.path}: cannot be read as keys", "restore a copy, or delete it and add keys")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on ``host``. A name other than localhost may mean anything."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def private_folder(folder: Path) -> None:
    """Ensure a state folder that only its owner can read; permissions of others are removed.

    Raises:
        ConfigError: it cannot be created or restricted, or is a folder that others use too, such as /tmp or a home folder.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if not about.st_mode & 0o077:
            return
        names = {path.name for path in folder.iterdir()} - {"lost+found"}
    except OSError as error:
        raise ConfigError(f"state folder {folder} cannot be made or read ({error.strerror})", "give another one") from None
    if about.st_mode & 0o1000 or (names and not names & _OURS):
        raise ConfigError(
            f"state folder {folder} can be read by others, and holds files that are not the service's", "give a separate folder"
        )
    try:
        folder.chmod(0o700)
    except OSError:
        raise ConfigError(
            f"state folder {folder} can be read by others, and belongs to another user", f"chmod 700 {folder}"
        ) from None


@contextmanager
def private_files() -> Iterator[None]:
    """Files that this process and its children create in the block are readable only by their owner."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _is_there(path: Path) -> bool:
    """Whether there is such a file; also true if it cannot be checked."""
    try:
        return path.exists()
    except OSError:
        return True


def _hash(presented: str, salt: bytes) -> bytes:
    return hashlib.blake2b(presented.encode("ascii"), digest_size=32, salt=salt, person=b"comel-api-key").digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
