"""Writing a suite's stream: one bag per case, and the manifest last, so that a manifest means a complete stream."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.contract import FeatureContract
from comel.base.files import atomic_path

__all__ = ["NORMAL", "TUMOUR", "MadeBag", "TileRange", "square", "within", "write_stream"]

NORMAL, TUMOUR = "normal", "tumour"
_FEWEST_TILES = 5


def _ascending(tiles: tuple[int, int]) -> tuple[int, int]:
    if not _FEWEST_TILES <= tiles[0] <= tiles[1]:
        raise ValueError(f"give the fewest, {_FEWEST_TILES} or more, and then the most")
    return tiles


TileRange = Annotated[tuple[int, int], AfterValidator(_ascending)]
"""Fewest and most tiles of a bag; below five no whole number of tiles is 1 to 20 % of a bag."""


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
        patient: the patient; default the name.
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


def square(count: int) -> np.ndarray:
    """``count`` cells (column, row) that fill a near-square grid row by row: (count, 2)."""
    columns = int(np.ceil(np.sqrt(count)))
    index = np.arange(count)
    return np.stack([index % columns, index // columns], axis=1)


def within(share: float, shares: tuple[float, float], count: int) -> int:
    """The whole number of ``count`` tiles nearest to ``share`` of them that lies within ``shares`` of them."""
    return min(max(round(share * count), math.ceil(shares[0] * count)), math.floor(shares[1] * count))


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
