"""The run directory: what a training run leaves, and the only thing that prediction, evaluation and a later task open.

config.yaml        every setting, resolved
metrics.json       scores of bags, instances and patients after every stage (comel.runs.metrics)
events.jsonl       progress, a line an event
versions/NNN/      one immutable model a stage: model.json, model.safetensors (adapters merged), the strategy's state
                   (base weights, adapters/<task>/), checksums.json
current            the version in use; replaced atomically
evaluations/       per-case predictions on the test sets, a CSV a version
checkpoint/        what an interrupted run goes on from
add-task.json      the plan of an unfinished add-task
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from comel.base.files import read_json, sha256_of_file, write_json, write_text
from comel.base.text import first_line
from comel.errors import RunError
from comel.runs.metrics import read_metrics
from comel.runs.version import VersionInfo
from comel.runs.weights import save_state

if TYPE_CHECKING:
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = [
    "RunDirectory",
]


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
        """Numbers of the complete versions, ascending."""
        folder = self.path / "versions"
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def runs_inside(self) -> str | None:
        """What to do where this holds the runs of ``--folds`` or ``--orders`` and is none itself; None where it does not."""
        for kind in ("fold", "order"):
            if (self.path / f"{kind}s.json").is_file() or (self.path / f"{kind}-0").is_dir():
                return f"it holds a run a {kind}: name one or several of them, such as {self.path / f'{kind}-0'}"
        return None

    def version_folder(self, version: int | None = None) -> Path:
        """The folder of a version; default the current one.

        Raises:
            RunError: there is no such run or version.
        """
        if not self.path.is_dir():
            raise RunError(f"{self.path}: no such run", "check the path, or train one: comel train")
        if version is None:
            try:
                version = int((self.path / "current").read_text())
            except (OSError, ValueError):
                remedy = self.runs_inside() or "finish the training: comel train --resume"
                raise RunError(f"{self.path}: holds no finished version", remedy) from None
        folder = self.path / "versions" / f"{version:03d}"
        if not folder.is_dir():
            known = ", ".join(map(str, self.versions())) or "none"
            raise RunError(f"{self.path}: no version {version}", f"it has {known}")
        return folder

    def info(self, version: int | None = None) -> VersionInfo:
        """What ``model.json`` says; default the current version.

        Raises:
            RunError: missing or damaged.
        """
        path = self.version_folder(version) / "model.json"
        try:
            info = VersionInfo.model_validate(read_json(path))
        except (OSError, ValueError, ValidationError) as error:
            raise RunError.damaged(path, first_line(error)) from None
        if info.version != int(path.parent.name):
            raise RunError.damaged(path, f"says version {info.version}")
        return info

    def verify(self, version: int | None = None) -> None:
        """Compare every file of a version with its checksum.

        Raises:
            RunError: a file is missing or differs.
        """
        folder = self.version_folder(version)
        try:
            checksums = read_json(folder / "checksums.json")
        except (OSError, ValueError):
            raise RunError(f"{folder}: no readable checksums.json", "restore the version from a copy") from None
        for name, checksum in checksums.items():
            path = folder / name
            if not path.is_file() or sha256_of_file(path) != checksum:
                raise RunError(f"{path}: missing or changed since it was written", "restore the version from a copy")

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
            write_json(partial / "checksums.json", {str(p.relative_to(partial)): sha256_of_file(p) for p in files})
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
        """Hold the run for writing; the lock goes with the process. What a killed one left half-written is removed.

        Raises:
            RunError: another process holds it.
        """
        import fcntl

        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"{self.path}: another process is writing to it", "wait, or choose another folder") from None
            for folder in (self.path, self.path / "evaluations"):
                for leftover in folder.glob(".partial-*"):
                    leftover.unlink()
            yield
