"""The run directory: everything a training run writes, and all that prediction, evaluation and a later task open.

config.yaml        every setting, resolved
metrics.json       scores of bags, instances and patients after every stage (comel.runs.metrics)
events.jsonl       progress, one line per event
versions/NNN/      one immutable model per stage: model.json, model.safetensors (adapters merged), the strategy's state
                   (base weights, adapters/<task>/), checksums.json
current            the version in use; replaced atomically
evaluations/       per-case predictions on the test sets, one CSV per version
checkpoint/        what an interrupted run resumes from
add-task.json      the plan of an unfinished add-task
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comel.base.files import read_bytes, read_json, sha256_of_file, write_json, write_text
from comel.base.text import first_line
from comel.errors import RunError
from comel.runs.metrics import read_metrics
from comel.runs.version import VersionInfo, read_version
from comel.runs.weights import save_state

if TYPE_CHECKING:
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = [
    "RunDirectory",
]

_CHECKSUMS = "checksums.json"
_FILES = ("config.yaml", "metrics.json", "events.jsonl", "add-task.json", ".lock")
_FOLDERS = ("versions", "evaluations", "checkpoint")
_OF_FILE_MANAGERS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini")
"""What macOS and Windows leave in a folder that is looked at or copied; nothing here reads files of such names."""
_DEEPEST = 6
_MAX_FILE_BYTES = 64 << 30
_VERSION = re.compile(r"[0-9]{3,9}")
_REMEDY = "restore the version from a copy"


class RunDirectory:
    """Paths and versions of one run; opens no weights itself."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    config = property(lambda self: self.path / "config.yaml")
    metrics = property(lambda self: self.path / "metrics.json")
    events = property(lambda self: self.path / "events.jsonl")
    checkpoint = property(lambda self: self.path / "checkpoint")

    def evaluation(self, version: int) -> Path:
        """The table of the test cases under a version (:mod:`comel.scoring.case_results`)."""
        return self.path / "evaluations" / f"{version:03d}.csv"

    @property
    def is_finished(self) -> bool:
        """Whether every stage of the run is done.

        Raises:
            RunError: ``metrics.json`` is damaged, or was written by a newer comel.
        """
        return read_metrics(self.metrics).finished

    def versions(self) -> list[int]:
        """The numbers of the complete versions, ascending."""
        folder = self.path / "versions"
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(path.name) for path in found if _VERSION.fullmatch(path.name) and path.is_dir())

    def runs_inside(self) -> str | None:
        """What to do if this holds the runs of ``--folds`` or ``--orders`` and is not a run itself; None if it does not."""
        for kind in ("fold", "order"):
            if (self.path / f"{kind}s.json").is_file() or (self.path / f"{kind}-0").is_dir():
                return f"it holds one run per {kind}: name one or several of them, such as {self.path / f'{kind}-0'}"
        return None

    def version_folder(self, version: int | None = None) -> Path:
        """The folder of a version; by default the current one.

        Raises:
            RunError: there is no such run or version.
        """
        if not self.path.is_dir():
            raise RunError(f"{self.path}: no such run", "check the path, or train one: comel train")
        self.check_files()
        if version is None:
            _check_kind(self.path / "current", stat.S_ISREG)
            try:
                version = int(read_bytes(self.path / "current", 64))
            except (OSError, ValueError):
                remedy = self.runs_inside() or "finish the training: comel train --resume"
                raise RunError(f"{self.path}: holds no finished version", remedy) from None
        if version not in (versions := self.versions()):
            raise RunError(f"{self.path}: no version {version}", f"it has {', '.join(map(str, versions)) or 'none'}")
        return self.path / "versions" / f"{version:03d}"

    def check_files(self) -> None:
        """Check the kind of every entry in the run: a run's files are neither links, which may lead anywhere, nor pipes
        or devices, which would block a reader.

        Raises:
            RunError: an entry is one of these.
        """
        for name in _FILES:
            _check_kind(self.path / name, stat.S_ISREG)
        waiting = [(self.path / name, _DEEPEST) for name in _FOLDERS]
        while waiting:
            folder, deeper = waiting.pop()
            if not _check_kind(folder, stat.S_ISDIR):
                continue
            try:
                entries = list(os.scandir(folder))
            except FileNotFoundError:
                continue  # the process that writes here has renamed it
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    _check_kind(Path(entry.path), stat.S_ISREG)
                elif deeper:
                    waiting.append((Path(entry.path), deeper - 1))
                else:
                    raise RunError(f"{entry.path}: nested too deep for a run", "restore the run from a copy")

    def info(self, version: int | None = None) -> VersionInfo:
        """The content of ``model.json``; by default the current version's.

        Raises:
            RunError: missing or damaged.
        """
        path = self.version_folder(version) / "model.json"
        info = read_version(path)
        if info.version != int(path.parent.name):
            raise RunError.damaged(path, f"states version {info.version}")
        return info

    def verify(self, version: int | None = None) -> None:
        """Check every file of a version against its checksum; files that file managers leave do not count.

        Raises:
            RunError: a file is missing, differs, or has no checksum.
        """
        folder = self.version_folder(version)
        checksums = self.checksums(version)
        files = [path for path in folder.rglob("*") if not path.is_dir() and not _OF_FILE_MANAGERS.fullmatch(path.name)]
        there = {path.relative_to(folder).as_posix() for path in files}
        for name in sorted(there - checksums.keys() - {_CHECKSUMS}):
            raise RunError(f"{folder / name}: not one of the version's files ({_CHECKSUMS})", f"{_REMEDY}, or remove it")
        for name in there:
            if (size := (folder / name).lstat().st_size) > _MAX_FILE_BYTES:
                raise RunError(f"{folder / name}: {size >> 30} GiB, larger than any file of a run", _REMEDY)
        for name, checksum in checksums.items():
            if name not in there or sha256_of_file(folder / name) != checksum:
                raise RunError(f"{folder / name}: missing or changed since it was written", _REMEDY)

    def checksums(self, version: int | None = None) -> dict[str, str]:
        """The SHA-256 (hex) of each file of a version, by its path in the version's folder, as recorded when it was written.

        Raises:
            RunError: the list is missing or damaged, or lacks the model.
        """
        path = self.version_folder(version) / _CHECKSUMS
        try:
            listed = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path.parent}: no readable {_CHECKSUMS} ({first_line(error)})", _REMEDY) from None
        named = isinstance(listed, dict) and all(isinstance(value, str) for value in listed.values())
        if not named or not {"model.json", "model.safetensors"} <= listed.keys():
            raise RunError(f"{path}: does not name the version's files", _REMEDY)
        return dict(listed)

    def publish(self, info: VersionInfo, model: MILModel, strategy: Strategy) -> None:
        """Write a version under a temporary name, rename it, and make it the current one."""
        final = self.path / "versions" / f"{info.version:03d}"
        if not final.is_dir():
            partial = final.with_name(f".partial-{info.version:03d}")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_state(partial, model, strategy)
            write_json(partial / "model.json", info.model_dump(mode="json"))
            files = sorted(p for p in partial.rglob("*") if p.is_file())
            write_json(partial / _CHECKSUMS, {p.relative_to(partial).as_posix(): sha256_of_file(p) for p in files})
            os.rename(partial, final)
        self.use(info.version)

    def use(self, version: int) -> None:
        """Make a version the current one."""
        write_text(self.path / "current", f"{version}\n")

    def event(self, name: str, **values: Any) -> None:
        """Append a line to ``events.jsonl``."""
        self.path.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": name, **values}, ensure_ascii=False)
        with open(self.events, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for writing; the lock ends with the process. Files that a killed process left half-written are removed.

        Raises:
            RunError: another process holds the lock.
        """
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        self.check_files()
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"{self.path}: another process is writing to it", "wait, or choose another folder") from None
            for folder in (self.path, self.path / "evaluations"):
                for leftover in folder.glob(".partial-*"):
                    leftover.unlink()
            yield


def _check_kind(path: Path, fits: Callable[[int], bool]) -> bool:
    """Whether an entry of this name exists, which must then be of this kind; another process may be writing here."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not fits(mode):
        raise RunError(f"{path}: not a run's own file (a link, a folder, a pipe, ...)", "restore the run from a copy")
    return True
