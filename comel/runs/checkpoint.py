"""What an interrupted training resumes from: model, strategy, optimizer and early stopping after an epoch of a stage.

All of it lies in one folder, put in place in one step. A checkpoint belongs to a plan (settings, data and the version it
started from); another plan does not resume from it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch

from comel.bags.contract import FeatureContract
from comel.base.files import read_json, write_json
from comel.errors import RunError
from comel.models.base import MILModel
from comel.runs.version import parse_contract, stored_contract
from comel.runs.weights import save_state
from comel.strategies.base import Strategy
from comel.strategies.persistence import read_tensors, write_tensors

__all__ = ["SavesItself", "discard", "early_stopping", "read_contract", "read_progress", "restore_optimizer", "write"]

_EARLY_STOPPING = "early-stopping.safetensors"


class SavesItself(Protocol):
    """The state of early stopping (:class:`comel.training.early_stopping.EarlyStopping`)."""

    def save(self, path: Path) -> None:
        """Write it as a file."""


def write(
    folder: Path,
    plan: str,
    stage: int,
    epoch: int,
    model: MILModel,
    strategy: Strategy,
    optimizer: torch.optim.Optimizer,
    contract: FeatureContract,
    stopping: SavesItself | None = None,
) -> None:
    """Replace the checkpoint: ``epoch`` epochs of ``stage`` are done, on bags of ``contract``."""
    partial, previous = folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")
    for leftover in (partial, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    save_state(partial, model, strategy)
    tensors = {
        f"{index}.{name}": value for index, state in optimizer.state_dict()["state"].items() for name, value in state.items()
    }
    write_tensors(partial / "optimizer.safetensors", tensors)
    if stopping is not None:
        stopping.save(partial / _EARLY_STOPPING)
    progress = {"plan": plan, "stage": stage, "epoch": epoch, "contract": stored_contract(contract)}
    write_json(partial / "progress.json", progress)
    if folder.exists():
        os.rename(folder, previous)
    os.rename(partial, folder)
    shutil.rmtree(previous, ignore_errors=True)


def read_progress(folder: Path, plan: str) -> tuple[int, int] | None:
    """(stage, epochs done) of a checkpoint that belongs to ``plan``, or None.

    A process killed between the two renames of :func:`write` leaves the new checkpoint under its temporary name; it is
    complete and is used.
    """
    partial = folder.with_name(f".{folder.name}-new")
    if not folder.exists() and (partial / "progress.json").exists():
        os.rename(partial, folder)
    progress = _progress(folder)
    if progress.get("plan") != plan:
        return None
    stage, epoch = progress.get("stage"), progress.get("epoch")
    if type(stage) is not int or type(epoch) is not int or stage < 0 or epoch < 0:
        raise RunError(f"{folder / 'progress.json'}: damaged", f"remove the folder {folder}: the stage then restarts")
    return stage, epoch


def read_contract(folder: Path) -> FeatureContract | None:
    """The feature contract of a checkpoint's training bags; None if there is no checkpoint or it does not state one."""
    contract = _progress(folder).get("contract")
    try:
        return None if contract is None else parse_contract(contract)
    except ValueError as error:
        remedy = f"remove the folder {folder}: the stage then restarts"
        raise RunError(f"{folder / 'progress.json'}: damaged ({error})", remedy) from None


def _progress(folder: Path) -> dict[str, Any]:
    try:
        progress = read_json(folder / "progress.json")
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


def restore_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer's state into one built over the same parameters in the same order.

    Raises:
        RunError: the file is missing or damaged.
    """
    path, state = folder / "optimizer.safetensors", dict[int, dict[str, Any]]()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for key, value in read_tensors(path).items():
        index, _, name = key.partition(".")
        place = int(index) if index.isascii() and index.isdigit() else -1
        if not 0 <= place < len(weights) or value.shape not in ((), weights[place].shape):
            raise RunError(f"{path}: does not fit the model ('{key}')", f"remove the folder {folder}: the stage then restarts")
        state.setdefault(place, {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def early_stopping(folder: Path, stage: int, epoch: int) -> Path:
    """The state of early stopping that belongs to a checkpoint after ``epoch`` epochs of ``stage``.

    Version 0.1.0 wrote it beside the checkpoint, under the name of its stage and epoch.
    """
    inside = folder / _EARLY_STOPPING
    return inside if inside.exists() else folder.parent / f"early-stopping-{stage:03d}-{epoch:05d}.safetensors"


def discard(folder: Path) -> None:
    """Remove a checkpoint that is no longer needed."""
    for path in (folder, folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")):
        shutil.rmtree(path, ignore_errors=True)
    for left_by_0_1_0 in folder.parent.glob("early-stopping-*.safetensors"):
        left_by_0_1_0.unlink()
