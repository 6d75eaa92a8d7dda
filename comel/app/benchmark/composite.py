"""The suite ``composite``: bags assembled from the tiles of real slides, so that every tile's label is known.

A task is an organ with neoplastic and other slides. A bag without tumour is a patch of tiles of one of the organ's
non-neoplastic slides, filled up from the others if that slide has too few; in a bag with tumour a contiguous patch of tiles
of a neoplastic slide of that organ replaces 4 to 30 % of them. Training and test tiles never come from the same half
of a slide: its tiles are cut across its longer side into train, val and test, and at each cut the tiles that start within a
tile's width of the part before are left out, so that no pixel is in two parts. A slide with a ``split`` in the manifest gives
all its tiles to that split.

Limitation: tumour tiles and the rest come from different slides, so a slide's staining is a clue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from comel.app.benchmark.storage import NORMAL, MadeBag, TileRange, square, within, write_stream
from comel.bags.bag import Bag, read_bag
from comel.bags.contract import FeatureContract
from comel.base.numbers import MOST_SEED
from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError, FeatureMismatch

__all__ = ["CompositeSettings", "make_composite", "parts_of"]

_POSITIVE = (0.04, 0.30)
_SPLITS = ("train", "val", "test")
_CUTS = (0.37, 0.55)


class CompositeSettings(BaseModel):
    """Settings of :func:`make_composite`; a seed draws the same bags from the same tiles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, le=MOST_SEED, description="seed of all random choices")
    train: int = Field(24, ge=2, multiple_of=2, description="training bags per task, half of them with tumour")
    val: int = Field(12, ge=2, multiple_of=2, description="validation bags per task")
    test: int = Field(30, ge=2, multiple_of=2, description="test bags per task")
    tiles: TileRange = Field((40, 80), description="fewest and most tiles per bag")


@dataclass(frozen=True)
class _Part:
    """The tiles of a slide that one split draws from: ``rows`` of its bag."""

    bag: Bag
    rows: np.ndarray


@dataclass
class _Organ:
    """An organ's parts by split."""

    normal: dict[str, list[_Part]] = field(default_factory=lambda: {split: [] for split in _SPLITS})
    neoplastic: dict[str, list[_Part]] = field(default_factory=lambda: {split: [] for split in _SPLITS})


def make_composite(folder: Path, slides: Path, bags: Path, settings: CompositeSettings, *, root: Path | None = None) -> Path:
    """Write the stream's bags and manifest; returns the manifest, which is written last.

    Args:
        folder: the folder to write.
        slides: manifest of the real slides: ``task`` is the organ, ``label`` is ``normal`` for a slide without neoplasm and
            anything else for one with. Organs without both are left out. ``split`` assigns a whole slide to one split.
        bags: the folder of their feature files, with coordinates.
        settings: the settings of the draw.
        root: folder that the manifest's relative paths start from; default its own.

    Raises:
        ManifestError, BagError: slides or bags cannot be read.
        FeatureMismatch: their features were not all made in the same way.
        ConfigError: no organ has slides of both kinds, or an organ has too few tiles for a split.
    """
    rows = read_manifest(slides, root=root).rows
    kinds: dict[str, set[bool]] = {}
    for row in rows:
        kinds.setdefault(row.task, set()).add(row.label == NORMAL)
    organs = {task: _Organ() for task, found in kinds.items() if len(found) == 2}
    if not organs:
        raise ConfigError(f"{slides}: no task has slides labelled '{NORMAL}' and others", "add both kinds for an organ")
    contract: FeatureContract | None = None
    for row in rows:
        if row.task not in organs:
            continue
        bag = read_bag(bags / f"{row.slide_id}.h5")
        contract = contract or bag.contract
        if difference := contract.difference(bag.contract):
            raise FeatureMismatch(f"{row.slide_id}: {difference}", "extract all slides in the same way")
        parts = {row.split: np.arange(len(bag))} if row.split and len(bag) else parts_of(bag)
        of_kind = organs[row.task].normal if row.label == NORMAL else organs[row.task].neoplastic
        for split, tiles in parts.items():
            of_kind[split].append(_Part(bag, tiles))
    assert contract is not None
    for organ, parts_by_kind in organs.items():
        _check_enough(organ, parts_by_kind, settings.tiles)
    return write_stream(folder, _bags(organs, settings), contract)


def parts_of(bag: Bag) -> dict[str, np.ndarray]:
    """Rows of a slide's tiles by split: cut across the longer side, so that no two parts share a pixel.

    Raises:
        ConfigError: the bag has no coordinates, or a part would be empty.
    """
    if bag.coords is None or bag.geometry is None or not len(bag):
        raise ConfigError(f"{bag.slide_id}: the bag has no tiles with positions", "extract the slide with comel extract")
    axis = int(np.argmax(np.ptp(bag.coords, axis=0)))
    along = bag.coords[:, axis]
    tile = math.ceil((bag.geometry.tile_width, bag.geometry.tile_height)[axis])
    first, second = np.quantile(along, _CUTS)
    parts = {"train": np.flatnonzero(along < first)}
    parts["val"] = np.flatnonzero((along >= _end(along[parts["train"]], tile)) & (along < second))
    parts["test"] = np.flatnonzero(along >= _end(along[parts["val"]], tile))
    if not all(len(rows) for rows in parts.values()):
        remedy = "give it a split in the manifest, or take it out"
        raise ConfigError(f"{bag.slide_id}: too small to be cut into train, val and test", remedy)
    return parts


def _end(starts: np.ndarray, tile: int) -> float:
    """Where the last of the tiles that start there ends; infinity if there is none."""
    return float(starts.max() + tile) if len(starts) else math.inf


def _check_enough(organ: str, parts: _Organ, tiles: tuple[int, int]) -> None:
    least = math.ceil(_POSITIVE[0] * tiles[1])
    for split in _SPLITS:
        for kind, found in ((f"'{NORMAL}'", parts.normal[split]), ("neoplastic", parts.neoplastic[split])):
            if not found:
                raise ConfigError(
                    f"{organ}: no {kind} slide for the split '{split}'", "give one that split, or leave its split empty"
                )
        if (count := sum(len(part.rows) for part in parts.normal[split])) < tiles[0]:
            raise ConfigError(
                f"{organ}: {count} tiles of '{NORMAL}' slides for the split '{split}', but a bag has {tiles[0]} or more",
                "add slides, or lower make.tiles",
            )
        for part in parts.neoplastic[split]:
            if len(part.rows) < least:
                raise ConfigError(
                    f"{part.bag.slide_id}: {len(part.rows)} tiles for the split '{split}', but up to {least} are needed",
                    "give the slide a split in the manifest, or take it out",
                )


def _bags(organs: Mapping[str, _Organ], settings: CompositeSettings) -> Iterator[MadeBag]:
    for number, (organ, parts) in enumerate(organs.items()):
        for split, count in zip(_SPLITS, (settings.train, settings.val, settings.test), strict=True):
            for index in range(count):
                draw = np.random.default_rng([settings.seed, number, _SPLITS.index(split), index])
                features = _normal_tiles(draw, parts.normal[split], int(draw.integers(*settings.tiles, endpoint=True)))
                positive = np.zeros(len(features), bool)
                cells = square(len(features))
                if index % 2:
                    neoplastic = parts.neoplastic[split]
                    finding = neoplastic[draw.integers(len(neoplastic))]
                    tumour = _patch(draw, finding, within(draw.uniform(*_POSITIVE), _POSITIVE, len(features)))
                    place = _nearest(draw, cells, len(tumour))
                    features[place], positive[place] = tumour, True
                yield MadeBag(f"{organ}-{split}-{index:03d}", organ, split, features, cells, positive)


def _normal_tiles(draw: np.random.Generator, parts: Sequence[_Part], size: int) -> np.ndarray:
    """(size, D): ``size`` tiles, or all there are: a patch of one slide, filled up with patches of the others."""
    first = int(draw.integers(len(parts)))
    found = [_patch(draw, parts[first], size)]
    if len(found[0]) < size:
        for other in draw.permutation([index for index in range(len(parts)) if index != first]):
            found.append(_patch(draw, parts[other], size - sum(map(len, found))))
    return np.concatenate(found)


def _patch(draw: np.random.Generator, part: _Part, count: int) -> np.ndarray:
    """The ``count`` tiles of a part (all, if there are fewer) that lie nearest to a random one of them: (count, D)."""
    assert part.bag.coords is not None
    chosen = _nearest(draw, part.bag.coords[part.rows], min(count, len(part.rows)))
    features: np.ndarray = part.bag.features[part.rows[chosen]]
    return features


def _nearest(draw: np.random.Generator, places: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` places nearest to a random one, nearest first."""
    distance = ((places - places[draw.integers(len(places))]) ** 2).sum(axis=1)
    return np.argsort(distance, kind="stable")[:count]
