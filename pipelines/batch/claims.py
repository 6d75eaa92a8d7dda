"""Who works on which slide: claims that are atomic across processes and hosts on a shared file system.

A claim is a file that is written under a unique name and linked to the claim's name: link(2) fails if the name exists,
on NFS too, and the file that appears is complete. Its holder touches it regularly. A claim without a touch for ``expiry``
seconds, or of a process of this machine that has ended, is stale, and one claimant replaces it.

Judging a claim stale and replacing it are two steps, which others may take at the same time. So only the holder of a second
claim, named after the stale one's token, may replace it, after checking it again. That second claim is made and, if its
holder died, taken over in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.batch.owner import Owner, this_process

__all__ = ["EXPIRY_SECONDS", "Claim", "Claims", "Held"]

EXPIRY_SECONDS = 120.0
"""Well above a beat and above an NFS client's attribute cache (60 s)."""

_SUFFIX = ".claim"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Claim:
    """A claim that this process holds."""

    name: str
    token: str


@dataclass(frozen=True)
class Held:
    """A claim as it was found.

    Attributes:
        token: its token; a made-up one if the file cannot be read.
        owner: who holds it; None if the file cannot be read.
        touched: its time of modification by the file server's clock.
    """

    token: str
    owner: Owner | None
    touched: float


class Claims:
    """The claims in one folder.

    Args:
        folder: the folder; created if missing.
        expiry: seconds without a touch after which a claim is stale; the same for all processes that share the folder.
    """

    def __init__(self, folder: Path, *, expiry: float = EXPIRY_SECONDS) -> None:
        self._folder, self._expiry = Path(folder), expiry
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clock = self._folder / f".clock-{secrets.token_hex(8)}"

    def take(self, name: str) -> Claim | None:
        """Claim a name; None if another process works on it.

        Raises:
            OSError: the folder cannot be written.
        """
        claim = Claim(name, secrets.token_hex(16))
        return claim if self._acquire(self._path(name), claim.token) else None

    def touch(self, claim: Claim) -> bool:
        """Show that the holder is alive; False if the claim is no longer its own."""
        path = self._path(claim.name)
        if not self._is(path, claim.token):
            return False
        with contextlib.suppress(OSError):
            os.utime(path)
        return True

    def release(self, claim: Claim) -> None:
        """Release a claim; one that was taken over meanwhile is left alone."""
        path, right = self._path(claim.name), self._right(claim.token)
        if self._acquire(right, secrets.token_hex(16)):
            if self._is(path, claim.token):
                path.unlink(missing_ok=True)
            right.unlink(missing_ok=True)

    def live(self) -> dict[str, Held]:
        """The valid claims, by name; without names that start with a dot, which are not slides."""
        found = {}
        for path in self._folder.glob(f"[!.]*{_SUFFIX}"):
            held = self._read(path)
            if held is not None and not self._is_stale(held):
                found[path.name.removesuffix(_SUFFIX)] = held
        return found

    def is_live(self, name: str) -> bool:
        """Whether a process works on it."""
        held = self._read(self._path(name))
        return held is not None and not self._is_stale(held)

    def is_alive(self, owner: Owner | None, touched: float) -> bool:
        """Whether an owner last seen at ``touched``, by the file server's clock, is still alive."""
        return (owner is None or not owner.is_gone()) and self._now() - touched <= self._expiry

    def close(self) -> None:
        """Remove the file used to read the clock."""
        try:
            self._clock.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise

    def _acquire(self, path: Path, token: str) -> bool:
        with self._written(token) as content:
            if _link(content, path):
                return True
            held = self._read(path)
            if held is None or not self._is_stale(held):
                return False
            right = self._right(held.token)
            if not self._acquire(right, secrets.token_hex(16)):
                return False
            try:
                if not self._is(path, held.token):
                    return False
                os.replace(content, path)
                return True
            finally:
                right.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self, token: str) -> Iterator[Path]:
        path = self._folder / f".new-{token}"
        try:
            path.write_text(json.dumps({"token": token, **asdict(this_process())}), encoding="utf-8")
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Held | None:
        try:
            # Opening a file asks an NFS server for its attributes; those of stat() may be a minute old.
            with open(path, "rb") as stream:
                state, content = os.fstat(stream.fileno()), stream.read(4096)
        except FileNotFoundError:
            return None
        try:
            said = json.loads(content)
            return Held(str(said.pop("token")), Owner(**said), state.st_mtime)
        except (ValueError, TypeError, KeyError, AttributeError):
            return Held(f"unreadable-{state.st_ino}-{state.st_mtime_ns}", None, state.st_mtime)

    def _is(self, path: Path, token: str) -> bool:
        held = self._read(path)
        return held is not None and held.token == token

    def _is_stale(self, held: Held) -> bool:
        return not self.is_alive(held.owner, held.touched)

    def _now(self) -> float:
        """The file server's clock: the time that it gives to a file touched now. Without write access, this machine's."""
        try:
            self._clock.touch()
            return self._clock.stat().st_mtime
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            return time.time()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _right(self, token: str) -> Path:
        return self._folder / f".right-{token}"


def _link(content: Path, path: Path) -> bool:
    """Give ``content`` its second name; False if that name is taken."""
    try:
        os.link(content, path)
    except FileExistsError:
        # Over NFS a request whose answer was lost is sent twice, and the second finds the first one's link.
        return content.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create(path, content.read_bytes())
    return True


def _create(path: Path, content: bytes) -> bool:
    """For a file system without hard links: the claim exists a moment before it can be read, and its age counts then."""
    try:
        with open(path, "xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True
