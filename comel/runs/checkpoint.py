"""What an interrupted training goes on from: model, strategy and optimizer after some epoch of some stage.

A checkpoint belongs to a plan (settings, data and the version it started from); another plan does not go on from it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from comel.base.files import read_json, write_json
from comel.models.base import MILModel
from comel.runs.weights import save_state
from comel.strategies.base import Strategy
from comel.strategies.persistence import read_tensors, write_tensors

__all__ = ["discard", "read_progress", "restore_optimizer", "write"]


def write(
    folder: Path, plan: str, stage: int, epoch: int, model: MILModel, strategy: Strategy, optimizer: torch.optim.Optimizer
) -> None:
    """Replace the checkpoint: ``epoch`` epochs of ``stage`` are done."""
    partial, previous = folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")
    for leftover in (partial, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    save_state(partial, model, strategy)
    tensors = {
        f"{index}.{name}": value for index, state in optimizer.state_dict()["state"].items() for name, value in state.items()
    }
    write_tensors(partial / "optimizer.safetensors", tensors)
    write_json(partial / "progress.json", {"plan": plan, "stage": stage, "epoch": epoch})
    if folder.exists():
        os.rename(folder, previous)
    os.rename(partial, folder)
    shutil.rmtree(previous, ignore_errors=True)


def read_progress(folder: Path, plan: str) -> tuple[int, int] | None:
    """(stage, epochs done) of a checkpoint that belongs to ``plan``, or None.

    A process killed between the two renames of :func:`write` leaves the new checkpoint under its temporary name: it is
    complete, and taken.
    """
    partial = folder.with_name(f".{folder.name}-new")
    if not folder.exists() and (partial / "progress.json").exists():
        os.rename(partial, folder)
    try:
        progress = read_json(folder / "progress.json")
    except (OSError, ValueError):
        return None
    return (progress["stage"], progress["epoch"]) if progress.get("plan") == plan else None


def restore_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer's state into one built over the same parameters in the same order.

    Raises:
        RunError: the file is missing or damaged.
    """
    state: dict[int, dict[str, Any]] = {}
    for key, value in read_tensors(folder / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def discard(folder: Path) -> None:
    """Remove a checkpoint that is no longer needed."""
    for path in (folder, folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")):
        shutil.rmtree(path, ignore_errors=True)
