"""This process's current work, in a file that others can read, with the heartbeat of the claims it holds."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comel.base.files import write_json
from pipelines.batch.claims import Claim, Claims
from pipelines.batch.owner import Owner, this_process

__all__ = ["Presence", "Present", "Running", "Watched", "read_present", "remove_absent"]

_BEAT_SECONDS = 5.0
_RECENT_SECONDS = 120.0

_logger = logging.getLogger(__name__)


@dataclass
class Running:
    """A slide in progress.

    Attributes:
        slide_id: the slide.
        stage: encoder, open, tissue, tiles, annotation, encode or write.
        done: tiles encoded.
        total: tiles in total, 0 if not known yet.
        since: start of the work, seconds since 1970.
    """

    slide_id: str
    stage: str = "open"
    done: int = 0
    total: int = 0
    since: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Present:
    """A process that works on a cohort.

    Attributes:
        owner: the process.
        tiles_per_second: its recent encoding rate.
        running: its slides.
    """

    owner: Owner
    tiles_per_second: float
    running: tuple[Running, ...]


class Presence:
    """The slides that this process works on, and a thread that publishes them every few seconds.

    Args:
        folder: the folder for this process's file.
        claims: the claims on the slides.
        stall_limit: seconds without a message after which a slide's ``stalled`` is called.
        beat: seconds between heartbeats.
    """

    def __init__(self, folder: Path, claims: Claims, *, stall_limit: float, beat: float = _BEAT_SECONDS) -> None:
        self._claims, self._stall_limit, self._beat = claims, stall_limit, beat
        self._path = Path(folder) / f"{secrets.token_hex(8)}.json"
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._slides: dict[str, Watched] = {}
        self._encoded: deque[tuple[float, int]] = deque()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def of(self, claim: Claim, stalled: Callable[[], None]) -> Iterator[Watched]:
        """Watch the work on a claimed slide."""
        watched = Watched(self, claim, stalled)
        with self._lock:
            self._slides[claim.token] = watched
        try:
            yield watched
        finally:
            with self._lock:
                del self._slides[claim.token]

    def present(self) -> Present:
        """This process's current work."""
        with self._lock:
            return Present(
                this_process(), self._tiles_per_second(), tuple(watched.running for watched in self._slides.values())
            )

    def close(self) -> None:
        """Withdraw this process's presence file."""
        self._ended.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def encoded(self, tiles: int) -> None:
        with self._lock:
            self._encoded.append((time.monotonic(), tiles))

    def _tiles_per_second(self) -> float:
        now = time.monotonic()
        while self._encoded and now - self._encoded[0][0] > _RECENT_SECONDS:
            self._encoded.popleft()
        span = min(_RECENT_SECONDS, now - self._started)
        return sum(tiles for _, tiles in self._encoded) / max(span, 1.0)

    def _run(self) -> None:
        while True:
            try:
                self._say()
            except OSError as error:
                # A file server that is briefly unavailable must not end the heartbeat.
                _logger.warning("%s: %s", self._path, error)
            if self._ended.wait(self._beat):
                return

    def _say(self) -> None:
        with self._lock:
            slides = list(self._slides.values())
        for watched in slides:
            self._claims.touch(watched.claim)
            if time.monotonic() - watched.heard > self._stall_limit:
                watched.has_stalled = True
                watched.stalled()
        present = self.present()
        said = {**asdict(present.owner), "tiles_per_second": present.tiles_per_second}
        write_json(self._path, {**said, "running": [asdict(running) for running in present.running]})


class Watched:
    """The work on one slide: receives its messages, and records when the last one came."""

    def __init__(self, presence: Presence, claim: Claim, stalled: Callable[[], None]) -> None:
        self._presence, self.claim, self.stalled = presence, claim, stalled
        self.running = Running(claim.name)
        self.heard, self.has_stalled = time.monotonic(), False

    def hear(self, message: tuple[str, int, int]) -> None:
        """Receive a stage, tiles done and total tiles."""
        self.heard = time.monotonic()
        stage, done, total = message
        if stage == "encode" and done > self.running.done:
            self._presence.encoded(done - self.running.done)
        self.running = Running(self.claim.name, stage, done, total, self.running.since)


def read_present(folder: Path, claims: Claims) -> list[Present]:
    """The processes now alive, on every host."""
    return [present for _, present, alive in _read_all(folder, claims) if alive]


def remove_absent(folder: Path, claims: Claims) -> None:
    """Remove the files of processes that ended without cleaning up."""
    for path, _, alive in _read_all(folder, claims):
        if not alive:
            path.unlink(missing_ok=True)


def _read_all(folder: Path, claims: Claims) -> Iterator[tuple[Path, Present, bool]]:
    """Each process with its file, and whether it is still alive."""
    for path in sorted(Path(folder).glob("[!.]*.json")):
        try:
            with open(path, "rb") as stream:
                said: dict[str, Any] = json.load(stream)
            touched = path.stat().st_mtime
            running = tuple(Running(**slide) for slide in said.pop("running"))
            rate = float(said.pop("tiles_per_second"))
            present = Present(Owner(**said), rate, running)
        except (OSError, ValueError, TypeError, KeyError):
            continue
        yield path, present, claims.is_alive(present.owner, touched)
