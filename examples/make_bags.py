"""Bags from features that you have as arrays: one HDF5 file per slide, and the manifest that names them.

    python make_bags.py practice
    comel train --manifest practice/manifest.csv --bags practice/bags --out runs/practice

Random numbers stand in for the features of a patch encoder: each organ shifts all of its tiles, and in a slide with a tumour a
quarter of the tiles are shifted once more. Replace ``tile_features`` by what you have.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from comel.bags.bag import Bag, write_bag
from comel.bags.contract import FeatureContract
from comel.bags.geometry import TileGeometry

ORGANS = ("colon", "kidney")
DIMENSION, COLUMNS, ROWS = 256, 8, 6
TILE_SIZE, MPP = 256, 0.5

CONTRACT = FeatureContract(encoder="random", weights_hash=None, dimension=DIMENSION, mpp=MPP, tile_size=TILE_SIZE)
"""How the features were made. A model refuses features that were made otherwise."""


def tile_features(organ: str, tumour: bool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The features (N, D) of a slide's tiles and their labels (N,): 1 tumour, 0 none; -1 would be unknown."""
    of_organ = np.random.default_rng(ORGANS.index(organ))
    shift, direction = of_organ.normal(size=(2, DIMENSION))
    labels = np.zeros(COLUMNS * ROWS, np.int8)
    if tumour:
        labels[: len(labels) // 4] = 1
    noise = generator.normal(size=(len(labels), DIMENSION))
    return (noise + shift + 2.5 * labels[:, None] * direction).astype(np.float32), labels


def write_cohort(folder: Path, slides_per_organ: int = 16) -> Path:
    """Write ``folder/bags/SLIDE.h5`` and ``folder/manifest.csv``; returns the manifest's path."""
    generator = np.random.default_rng(0)
    column, row = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))
    # Where each tile lies on its slide: its top left corner in level-0 pixels, x before y, row after row.
    coords = np.stack([column.ravel(), row.ravel()], axis=1).astype(np.int64) * TILE_SIZE  # (N, 2)
    geometry = TileGeometry(
        patch_size=TILE_SIZE,
        mpp_x=MPP,
        mpp_y=MPP,
        level0_mpp_x=MPP,
        level0_mpp_y=MPP,
        level0_width=COLUMNS * TILE_SIZE,
        level0_height=ROWS * TILE_SIZE,
    )
    table = []
    (folder / "bags").mkdir(parents=True, exist_ok=True)
    for organ in ORGANS:
        for number in range(slides_per_organ):
            slide, label = f"{organ}-{number:02d}", "tumour" if number % 2 else "normal"
            features, labels = tile_features(organ, label == "tumour", generator)
            write_bag(folder / "bags" / f"{slide}.h5", Bag(slide, features, coords, geometry, CONTRACT, labels=labels))
            table.append({"slide_id": slide, "path": f"{slide}.svs", "task": organ, "label": label})
    manifest = folder / "manifest.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, table[0])
        writer.writeheader()
        writer.writerows(table)
    return manifest


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_bags.py FOLDER")
    print(write_cohort(Path(sys.argv[1])))
