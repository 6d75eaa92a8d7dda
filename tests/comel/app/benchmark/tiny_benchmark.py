"""A benchmark small enough to run in seconds: configuration, a user's own model and strategy, slides, and an encoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.contract import FeatureContract

OWN = '''
from comel.models.mean import MeanPooling
from comel.strategies.finetune import Finetune


class Plain(MeanPooling):
    adapter_targets = ()


class Mine(Finetune):
    """Fine-tuning by another name."""


class Broken(Finetune):
    def before_task(self, model, stage, bags):
        raise ZeroDivisionError("a defect")


class Interrupted(Finetune):
    def before_task(self, model, stage, bags):
        if stage.index == 1:
            raise KeyboardInterrupt
'''

SUITES: dict[str, Any] = {
    "features": {
        "make": {"tasks": 2, "dimension": 16, "train": 6, "val": 2, "test": 6, "tiles": [10, 16], "difficulty": 0.2},
        "model": {"dim": 16, "attention_hidden": 8, "num_heads": 2, "region_size": 4},
        "strategy": {"rank": 2, "tasks": 2},
        "trainer": {"epochs": 2, "lr": 3.0e-3, "device": "cpu", "threads": 1},
    },
    "composite": {"make": {}, "extract": {"target_mpp": 1.0}},
    "crchisto": {
        "make": {"folds": 2, "stains": ["as-scanned", "h_heavy"]},
        "model": {"dim": 16},
        "trainer": {"epochs": 2, "lr": 3.0e-3, "device": "cpu", "threads": 1},
    },
}


def write_config(folder: Path, **sections: dict[str, Any]) -> Path:
    """``my.yaml`` and ``own.py`` in a folder; ``sections`` are merged over those of the suite ``features``."""
    own = folder / "own.py"
    folder.mkdir(parents=True, exist_ok=True)
    own.write_text(OWN)
    finetune, mean = {"name": "finetune"}, {"name": "mean"}
    rows = {
        "mean": {"group": "plain", "strategy": finetune, "model": mean},
        "comel": {"group": "adapters", "strategy": {"name": "owlora"}, "model": {"name": "comel", "blocks": 1}},
        "mine": {"group": "own", "strategy": {"name": f"{own}:Mine"}, "model": {"name": f"{own}:Plain"}},
        "no-targets": {"group": "refused", "strategy": {"name": "owlora"}, "model": {"name": f"{own}:Plain"}},
        "no-room": {"group": "refused", "strategy": {"name": "owlora", "rank": 64}, "model": mean},
        "broken": {"group": "defects", "strategy": {"name": f"{own}:Broken"}, "model": mean},
        "interrupted": {"group": "defects", "strategy": {"name": f"{own}:Interrupted"}, "model": mean},
    }
    suites = copy.deepcopy(SUITES)
    for name, section in sections.items():
        suites["features"][name] = {**suites["features"].get(name, {}), **section}
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({"suites": suites, "rows": rows}, sort_keys=False))
    return path


class Stub:
    """Mean and spread of the colours: (N, 6)."""

    name, weights_hash, dimension, input_size = "stub", "cd" * 32, 6, 224

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        assert tiles.dtype == np.uint8
        assert tiles.shape[1:] == (self.input_size, self.input_size, 3)
        values = tiles.reshape(len(tiles), -1, 3).astype(np.float32) / 255
        return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)


COLUMNS = ("slide_id", "path", "label", "task", "split")
CUT = [
    ("colitis", "normal", "colon", ""),
    ("adenoma", "adenoma", "colon", ""),
    ("gastritis", "normal", "stomach", ""),
    ("erosion", "normal", "stomach", ""),
    ("signet", "carcinoma", "stomach", ""),
    ("lung", "carcinoma", "lung", ""),
]


def slide(name: str, columns: int, rows: int, *, tile: int = 256, overlap: int = 128, scale: float = 1.0, mark: int = 0) -> Bag:
    """A slide full of tiles; a tile's features say the slide (``mark``), and which tile it is."""
    stride = (tile - overlap) * scale
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    coords = np.round(grid * stride).astype(np.int64)
    features = np.stack([np.full(len(grid), mark), grid[:, 0], grid[:, 1]], axis=1).astype(np.float32)
    width, height = (int(end + tile * scale) + 1 for end in coords.max(axis=0))
    geometry = TileGeometry(tile, 0.5 * scale, 0.5 * scale, 0.5, 0.5, width, height, overlap=overlap, name=f"{name}.svs")
    return Bag(name, features, coords, geometry, FeatureContract("toy", "ab" * 32, 3, 0.5 * scale, tile))


def cohort(folder: Path, rows: list[tuple[str, str, str, str]], **slides: Bag) -> Path:
    """Bags and a manifest of (name, label, task, split); every slide has 24 x 8 tiles unless it is given."""
    for number, (name, _, _, _) in enumerate(rows):
        write_bag(folder / "slides" / f"{name}.h5", slides.get(name) or slide(name, 24, 8, mark=number))
    lines = [",".join(COLUMNS), *(f"{name},{name}.svs,{label},{task},{split}" for name, label, task, split in rows)]
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    return folder / "slides.csv"
