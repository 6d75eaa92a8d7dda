"""The run directory: what a training run leaves, and the only thing that prediction, evaluation and a later task open.

config.yaml        every setting, resolved
metrics.json       R matrices of bag and instance scores
events.jsonl       progress, a line an event
versions/NNN/      one immutable model a stage: model.json, model.safetensors (adapters merged), the strategy's state
                   (base weights, adapters/<task>/), checksums.json
current            the version in use; replaced atomically
evaluations/       per-case predictions on the test sets, a CSV a version
checkpoint/        what an interrupted run goes on from; early-stopping-*.safetensors, its best weights so far; add-task.json,
                   the plan of an unfinished add-task
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

from pydantic import BaseModel, ConfigDict, ValidationError

from comel.bag import FeatureContract
from comel.classes import Head
from comel.errors import RunError
from comel.files import atomic_path, read_json, sha256_of_file, write_json, write_text

if TYPE_CHECKING:
    from comel.models.base import MILModel
    from comel.strategies.base import Strategy

__all__ = ["RunDirectory", "TaskInfo", "VersionInfo", "build_model", "load_state", "save_state"]


class TaskInfo(BaseModel):
    """A task that a version has learned: its head, what was chosen on its validation cases (the instance threshold, the
    temperature, the distance beyond which a bag is of another kind), and which slides were in which split, so that no later
    evaluation takes a training slide for a test slide."""

    model_config = ConfigDict(extra="forbid")

    name: str
    head: int
    stage: int
    threshold: float = 0.5
    threshold_chosen_on: str = "default"
    temperature: float = 1.0
    distance_threshold: float | None = None
    training_cases: int = 0
    slides: dict[str, list[str]] = {}


class VersionInfo(BaseModel):
    """``model.json``: everything about a version that is not a weight."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    version: int
    run: str
    created: str
    comel_version: str
    mode: str
    model: dict[str, Any]
    strategy: dict[str, Any]
    tasks: list[TaskInfo]
    stages: int
    contract: dict[str, Any]
    report: dict[str, Any] = {}

    @property
    def feature_contract(self) -> FeatureContract:
        """The contract that bags must fulfil."""
        return FeatureContract(**self.contract)

    @property
    def distance_threshold(self) -> float | None:
        """The distance from which a slide is flagged as unlike all that was learned; None where none was chosen.

        The largest of all tasks: distances mean the same for every task, and a smaller threshold was chosen while less was
        known of how bags spread.
        """
        return max((info.distance_threshold for info in self.tasks if info.distance_threshold is not None), default=None)


class RunDirectory:
    """Paths and versions of one run; opens no weights itself."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    config = property(lambda self: self.path / "config.yaml")
    metrics = property(lambda self: self.path / "metrics.json")
    checkpoint = property(lambda self: self.path / "checkpoint")

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
            raise RunError(f"{path}: damaged ({str(error).splitlines()[0]})", "restore the run from a copy") from None
        if info.version != int(path.parent.name):
            raise RunError(f"{path}: damaged (says version {info.version})", "restore the run from a copy")
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
        with open(self.path / "events.jsonl", "a", encoding="utf-8") as stream:
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


def save_state(folder: Path, model: MILModel, strategy: Strategy) -> None:
    """Write ``model.safetensors``, adapters merged, and beside it what the strategy needs to go on."""
    from safetensors.torch import save_file

    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("trunk.")}
    state |= {f"trunk.{name}": tensor for name, tensor in strategy.merged_trunk(model).items()}
    with atomic_path(folder / "model.safetensors") as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)
    strategy.save(model, folder)


def build_model(model: dict[str, Any]) -> MILModel:
    """An untrained model from ``model.json``'s description (name, dimension, options, heads)."""
    from comel.models import model_class

    kind = model_class(model["name"])
    options = kind.Options.model_validate(model["options"])
    return kind(model["dimension"], options, heads=[Head.from_dict(head) for head in model["heads"]])


def load_state(folder: Path, model: MILModel, strategy: Strategy | None = None) -> None:
    """Read what :func:`save_state` wrote; without a strategy the merged weights alone, which is all inference needs.

    Raises:
        RunError: the weights are damaged or do not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: cannot be read ({str(error).splitlines()[0]})", "restore the run from a copy") from None
    if strategy is not None:
        strategy.load(model, folder)
