"""The suite ``composite``: bags put together from the tiles of real slides, so that every tile's label is known.

A task is an organ with neoplastic and other slides. A bag without tumour is a draw of tiles from the organ's non-neoplastic
slides; a bag with tumour is such a draw in which a contiguous patch of tiles of a neoplastic slide of that organ takes the
place of 4 to 30 % of the tiles. Training and test tiles never come from the same half of a slide: the slide's tiles are cut
across its longer side, a gap of one tile wide is left out, and the training half is cut again for validation.

What it cannot show: tumour tiles and the rest come from different slides, so that a slide's staining is a hint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from comel.bag import Bag, read_bag
from comel.benchmark.storage import NORMAL, MadeBag, write_stream
from comel.errors import ConfigError
from comel.manifest import read_manifest

__all__ = ["CompositeSettings", "make_composite", "parts_of"]

_POSITIVE = (0.04, 0.30)
_SPLITS = ("train", "val", "test")
_ENDS = {"train": (0.0, 0.37), "val": (0.37, 0.55), "test": (0.55, 1.0)}


class CompositeSettings(BaseModel):
    """Settings of :func:`make_composite`; a seed draws the same bags from the same tiles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, description="of everything drawn")
    train: int = Field(24, ge=2, multiple_of=2, description="training bags of a task, half of them with tumour")
    val: int = Field(12, ge=2, multiple_of=2, description="validation bags of a task")
    test: int = Field(30, ge=2, multiple_of=2, description="test bags of a task")
    tiles: tuple[int, int] = Field((40, 80), description="fewest and most tiles of a bag")


def make_composite(folder: Path, slides: Path, bags: Path, settings: CompositeSettings) -> Path:
    """Write the stream's bags and manifest; returns the manifest, which is written last.

    Args:
        folder: where to.
        slides: manifest of the real slides: ``task`` is the organ, ``label`` is ``normal`` or a finding. Organs without both
            are left out.
        bags: their feature files, with coordinates.
        settings: what to draw.

    Raises:
        ManifestError, BagError: slides or bags cannot be read.
        ConfigError: no organ has slides of both kinds, or a slide has too few tiles.
    """
    manifest = read_manifest(slides)
    organs: dict[str, dict[bool, list[Bag]]] = {}
    for row in manifest.rows:
        bag = read_bag(bags / f"{row.slide_id}.h5")
        organs.setdefault(row.task, {True: [], False: []})[row.label != NORMAL].append(bag)
    organs = {organ: kinds for organ, kinds in organs.items() if kinds[True] and kinds[False]}
    if not organs:
        raise ConfigError(f"{slides}: no task has slides labelled '{NORMAL}' and others", "add both kinds for an organ")
    contract = next(iter(organs.values()))[True][0].contract
    return write_stream(folder, _bags(organs, settings), contract)


def parts_of(bag: Bag) -> dict[str, np.ndarray]:
    """Rows of a slide's tiles by split: across the longer side, with a gap of a tile's width between the parts.

    Raises:
        ConfigError: the bag has no coordinates, or a part would be empty.
    """
    if bag.coords is None or bag.geometry is None or len(bag) < 2:
        raise ConfigError(f"{bag.slide_id}: the bag has no tile positions", "extract the slide with comel extract")
    tile = bag.geometry.patch_size_level0
    extent = bag.coords.max(axis=0) - bag.coords.min(axis=0)
    along = bag.coords[:, int(np.argmax(extent))].astype(np.float64)
    cuts = {split: np.quantile(along, end) for split, (_, end) in _ENDS.items() if split != "test"}
    parts = {
        "train": np.flatnonzero(along < cuts["train"]),
        "val": np.flatnonzero((along >= cuts["train"] + tile) & (along < cuts["val"])),
        "test": np.flatnonzero(along >= cuts["val"] + tile),
    }
    for split, rows in parts.items():
        if not len(rows):
            raise ConfigError(f"{bag.slide_id}: too small to be cut into train, val and test", "take the slide out")
    return parts


def _bags(organs: Mapping[str, Mapping[bool, list[Bag]]], settings: CompositeSettings) -> Iterator[MadeBag]:
    for number, (organ, kinds) in enumerate(organs.items()):
        parts = {id(bag): parts_of(bag) for bags in kinds.values() for bag in bags}
        for split, count in zip(_SPLITS, (settings.train, settings.val, settings.test), strict=True):
            for index in range(count):
                draw = np.random.default_rng([settings.seed, number, _SPLITS.index(split), index])
                size = int(draw.integers(*settings.tiles, endpoint=True))
                normal = kinds[False][draw.integers(len(kinds[False]))]
                features = normal.features[_patch(draw, normal, parts[id(normal)][split], size)]
                positive = np.zeros(len(features), bool)
                cells = _square(len(features))
                if index % 2:
                    finding = kinds[True][draw.integers(len(kinds[True]))]
                    wanted = max(1, round(draw.uniform(*_POSITIVE) * len(features)))
                    rows = _patch(draw, finding, parts[id(finding)][split], wanted)
                    place = _nearest(draw, cells, len(rows))
                    features = features.copy()
                    features[place], positive[place] = finding.features[rows], True
                yield MadeBag(f"{organ}-{split}-{index:03d}", organ, split, features, cells, positive)


def _patch(draw: np.random.Generator, bag: Bag, rows: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the rows (all, if there are fewer) that lie nearest to a random one of them on the slide."""
    assert bag.coords is not None
    return rows[_nearest(draw, bag.coords[rows], min(count, len(rows)))]


def _nearest(draw: np.random.Generator, places: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` places nearest to a random one, nearest first."""
    distance = ((places - places[draw.integers(len(places))]) ** 2).sum(axis=1)
    return np.argsort(distance, kind="stable")[:count]


def _square(count: int) -> np.ndarray:
    """``count`` cells (column, row) that fill a near-square grid row by row, (count, 2)."""
    columns = int(np.ceil(np.sqrt(count)))
    index = np.arange(count)
    return np.stack([index % columns, index // columns], axis=1)
