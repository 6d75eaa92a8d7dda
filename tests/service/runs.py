"""Small runs of real models, trained in a second, and bags for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import comel
from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.contract import FeatureContract

DIMENSION = 8
CONTRACT = FeatureContract("toy", "ab" * 32, DIMENSION, 0.5, 64)
MODEL = {"name": "comel", "dim": 8, "attention_hidden": 4, "blocks": 1, "num_heads": 2, "region_size": 4}
TRAINER = {"epochs": 1, "threads": 1, "device": "cpu"}
ORGANS = ("colon", "kidney")


def a_bag(organ: str, label: str, slide: str, contract: FeatureContract = CONTRACT) -> Bag:
    random = np.random.default_rng([ord(letter) for letter in slide])
    features = random.normal(size=(9, contract.dimension)) + 3 * ORGANS.index(organ)
    features[:3, 0] += 5 * (label == "tumour")
    place = np.arange(9)
    coords = np.stack([place % 3, place // 3], axis=1).astype(np.int64) * 64
    geometry = TileGeometry(64, 0.5, 0.5, 0.5, 0.5, 200, 200)
    return Bag(slide, features.astype(np.float32), coords, geometry, contract)


def a_cohort(folder: Path, organ: str, contract: FeatureContract = CONTRACT) -> Path:
    """Manifest and bags of one task, eight slides."""
    rows = ["slide_id,path,label,task,split"]
    (folder / "bags").mkdir(parents=True)
    for i in range(8):
        label, split = ("tumour" if i % 2 else "normal"), ("train", "train", "val", "test")[i // 2]
        write_bag(folder / "bags" / f"{organ}-{i}.h5", a_bag(organ, label, f"{organ}-{i}", contract))
        rows.append(f"{organ}-{i},{organ}-{i}.tif,{label},{organ},{split}")
    (folder / f"{organ}.csv").write_text("\n".join(rows) + "\n")
    return folder / f"{organ}.csv"


def a_run(folder: Path, name: str, organ: str, contract: FeatureContract = CONTRACT) -> Path:
    """A run trained on one organ; its cohort lies beside it."""
    manifest = a_cohort(folder / f"{name} cohort", organ, contract)
    data = {"manifest": manifest, "bags": manifest.parent / "bags"}
    settings = {"data": data, "model": MODEL, "strategy": {"name": "owlora", "rank": 2, "tasks": 3}, "trainer": TRAINER}
    comel.train(settings, folder / name, quiet=True)
    return folder / name
