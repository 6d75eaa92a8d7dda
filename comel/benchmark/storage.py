"""How a suite writes what it made: one bag a case, and the manifest last, so that a manifest means a complete stream."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comel.bag import Bag, FeatureContract, TileGeometry, write_bag
from comel.files import atomic_path

__all__ = ["NORMAL", "TUMOUR", "MadeBag", "write_stream"]

NORMAL, TUMOUR = "normal", "tumour"


@dataclass(frozen=True)
class MadeBag:
    """A bag of a suite.

    Attributes:
        name: its slide id.
        task: the task it belongs to.
        split: train, val or test.
        features: (N, D).
        cells: (N, 2) column and row of each tile on the grid of tiles.
        labels: (N,) 1 positive, 0 negative.
        patient: who it is from; default the name.
        fold: the fold it is tested in, or None.
    """

    name: str
    task: str
    split: str
    features: np.ndarray
    cells: np.ndarray
    labels: np.ndarray
    patient: str | None = None
    fold: int | None = None


def write_stream(folder: Path, bags: Iterable[MadeBag], contract: FeatureContract) -> Path:
    """Write ``bags/NAME.h5`` and then ``manifest.csv``; tiles lie side by side, ``contract.tile_size`` pixels apart.

    Returns:
        the manifest.
    """
    side, mpp = contract.tile_size or 256, contract.mpp or 0.5
    (folder / "bags").mkdir(parents=True, exist_ok=True)
    rows = []
    for made in bags:
        order = np.lexsort((made.cells[:, 0], made.cells[:, 1]))
        coords = made.cells[order].astype(np.int64) * side
        width, height = (int(end) + side for end in coords.max(axis=0))
        geometry = TileGeometry(side, mpp, mpp, mpp, mpp, width, height, name=f"{made.name}.none")
        labels = made.labels[order].astype(np.int8)
        bag = Bag(made.name, made.features[order].astype(np.float32), coords, geometry, contract, labels=labels)
        write_bag(folder / "bags" / f"{made.name}.h5", bag)
        row = {
            "slide_id": made.name,
            "path": f"{made.name}.none",
            "label": TUMOUR if made.labels.any() else NORMAL,
            "task": made.task,
            "patient_id": made.patient or made.name,
        }
        rows.append(row | ({"split": made.split} if made.fold is None else {"fold": str(made.fold)}))
    manifest = folder / "manifest.csv"
    with atomic_path(manifest) as path, open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest
