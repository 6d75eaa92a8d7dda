"""The runs in a folder and their settings: all runs in a folder at one time make the same bags.

Each run has its own file, which it touches every few seconds. In it a run states its key, once known, and takes the
folder over in ``run.json``, under a claim and only if no run with another key is active. A process that works on a slide reads
``run.json`` before and after: a run that was taken for dead, such as on a machine that slept, finds another run's key
there and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comel.base.files import read_json, write_json
from comel.errors import ConfigError
from pipelines.batch.claims import Claims
from pipelines.batch.owner import Owner, this_process

__all__ = ["RunMarker", "TakenOver", "check_folder", "marker_path", "remove_old_markers"]

_CLAIM = ".settings"
_BEAT_SECONDS = 5.0
_OLD_SECONDS = 30 * 24 * 3600.0
_REMEDY = "give another --out, or wait until that run has ended"


class TakenOver(ConfigError):
    """Another run now makes this folder's bags with other settings; not a slide's fault."""


def marker_path(state_dir: Path, run: str) -> Path:
    """The file of a run."""
    return state_dir / "runs" / f"{run}.json"


def check_folder(state_dir: Path, key: str) -> None:
    """Check that the folder still belongs to runs with this key.

    Raises:
        TakenOver: it belongs to other runs now.
    """
    if _key_of_folder(state_dir) not in (None, key):
        raise TakenOver(f"{state_dir.parent}: another run with other settings has taken this folder over", _REMEDY)


class RunMarker:
    """The file of a run; to be closed at its end.

    Args:
        state_dir: the output folder's state folder.
        run: the run's own name.
        beat: seconds between heartbeats.
    """

    def __init__(self, state_dir: Path, run: str, *, beat: float = _BEAT_SECONDS) -> None:
        self._state_dir, self._path, self._beat = state_dir, marker_path(state_dir, run), beat
        write_json(self._path, asdict(this_process()))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="run", daemon=True)
        self._thread.start()

    def enter(self, key: str, facts: dict[str, Any], claims: Claims) -> None:
        """State what this folder's bags are made with from now on.

        Args:
            key: the run's key, see :func:`pipelines.batch.work.describe`.
            facts: further content of ``run.json``.
            claims: the folder's claims.

        Raises:
            ConfigError: other runs are making them with other settings.
        """
        while (claim := claims.take(_CLAIM)) is None:
            time.sleep(0.1)  # held briefly, and taken over if its holder died
        try:
            self._see_others(key, claims)
            write_json(self._path, {**asdict(this_process()), "key": key})
            write_json(self._state_dir / "run.json", {"key": key, **facts})
        finally:
            claims.release(claim)

    def close(self) -> None:
        """Mark the run as ended."""
        self._ended.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _see_others(self, key: str, claims: Claims) -> None:
        out = self._state_dir.parent
        for path in self._path.parent.glob("[!.]*.json"):
            owner, its, touched = _read(path)
            if path != self._path and its not in (None, key) and owner is not None and claims.is_alive(owner, touched):
                raise ConfigError(f"{out}: {owner.host}, process {owner.pid} works there with other settings", _REMEDY)
        # A Dask worker may still work on a slide of a run that has ended.
        if _key_of_folder(self._state_dir) not in (None, key) and (live := claims.live()):
            slide, held = next(iter(live.items()))
            where = f"{held.owner.host}, process {held.owner.pid}" if held.owner is not None else "another process"
            raise ConfigError(f"{out}: {where} extracts {slide} with other settings", _REMEDY)

    def _run(self) -> None:
        while not self._ended.wait(self._beat):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def remove_old_markers(state_dir: Path) -> None:
    """Remove the files of runs that ended without cleaning up."""
    for path in (state_dir / "runs").glob("[!.]*.json"):
        owner, _, touched = _read(path)
        if (owner is not None and owner.is_gone()) or time.time() - touched > _OLD_SECONDS:
            path.unlink(missing_ok=True)


def _key_of_folder(state_dir: Path) -> str | None:
    try:
        return str(read_json(state_dir / "run.json")["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> tuple[Owner | None, str | None, float]:
    """The run's owner, its key, and when it was last seen; as far as the file can be read."""
    touched = time.time()
    try:
        # Opening a file asks an NFS server for its attributes; those of stat() may be a minute old.
        with open(path, "rb") as stream:
            touched = os.fstat(stream.fileno()).st_mtime
            said = json.load(stream)
        key = said.pop("key", None)
        return Owner(**said), key, touched
    except (OSError, ValueError, TypeError, AttributeError):
        return None, None, touched
