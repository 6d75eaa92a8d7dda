"""The suite ``features``: a synthetic stream of feature bags whose truth is known.

A task is an organ. Its tiles are

    x = organ + tissue + slide + finding + noise

with, drawn for each seed: an organ's centre; four tissue kinds per organ, mixed differently on each slide; a slide's own
shift along three directions that all organs share (stain); unit noise. Tumour tiles carry a direction that is part shared by
all organs and part the organ's own; inflamed tiles, on normal slides and tumour slides alike, carry another direction that
leans on the tumour's. Both lie in contiguous blots; tumour covers 1 to 20 % of a tumour slide's tiles.

``difficulty`` from 0 to 1 weakens the tumour, brings the organs closer and lets inflammation lean more on the tumour.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from comel.app.benchmark.storage import MadeBag, TileRange, square, within, write_stream
from comel.bags.contract import FeatureContract
from comel.base.numbers import MOST_SEED

__all__ = ["FeatureSettings", "make_features", "towards", "unit"]

_TISSUES = 4
_STAINS = 3
_POSITIVE = (0.01, 0.20)
_INFLAMED = (0.0, 0.20)


class FeatureSettings(BaseModel):
    """Settings of :func:`make_features`; the same settings give the same bags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, le=MOST_SEED, description="seed of all random choices")
    difficulty: float = Field(0.5, ge=0, le=1, description="0 easy to 1 hard")
    tasks: int = Field(4, ge=1, le=50, description="organs, one after another")
    dimension: int = Field(128, ge=8, description="length of a feature vector")
    train: int = Field(24, ge=2, multiple_of=2, description="training bags per task, half of them with tumour")
    val: int = Field(12, ge=2, multiple_of=2, description="validation bags per task")
    test: int = Field(40, ge=2, multiple_of=2, description="test bags per task")
    tiles: TileRange = Field((80, 200), description="fewest and most tiles per bag")


def make_features(folder: Path, settings: FeatureSettings) -> Path:
    """Write the stream's bags and manifest; returns the manifest, which is written last."""
    contract = FeatureContract(f"synthetic-{settings.dimension}", None, settings.dimension, 0.5, 256)
    return write_stream(folder, _bags(settings), contract)


def _bags(settings: FeatureSettings) -> Iterator[MadeBag]:
    world = np.random.default_rng([settings.seed, 0])
    hard, dimension = settings.difficulty, settings.dimension
    shared, stains = unit(world, dimension), [unit(world, dimension) for _ in range(_STAINS)]
    for number in range(settings.tasks):
        organ = (6 - 3 * hard) / np.sqrt(2) * unit(world, dimension)
        tissues = [3 * unit(world, dimension) for _ in range(_TISSUES)]
        tumour = (5 - 2.5 * hard) * towards(shared, unit(world, dimension), 0.6)
        inflamed = 3 * towards(tumour / np.linalg.norm(tumour), unit(world, dimension), 0.6 * hard)
        for split, count in (("train", settings.train), ("val", settings.val), ("test", settings.test)):
            for index in range(count):
                draw = np.random.default_rng([settings.seed, 1, number, ("train", "val", "test").index(split), index])
                cells = square(int(draw.integers(*settings.tiles, endpoint=True)))
                positive = np.zeros(len(cells), bool)
                if index % 2:
                    positive = _blot(draw, cells, within(draw.uniform(*_POSITIVE), _POSITIVE, len(cells)))
                benign = _blot(draw, cells, max(1, round(draw.uniform(*_INFLAMED) * len(cells)))) & ~positive
                kinds = draw.choice(_TISSUES, len(cells), p=draw.dirichlet(np.full(_TISSUES, 2.0)))
                features = organ + np.stack(tissues)[kinds] + draw.normal(size=(len(cells), dimension))
                features += sum(draw.normal() * stain for stain in stains)
                features += positive[:, None] * tumour + benign[:, None] * inflamed
                yield MadeBag(f"organ{number + 1}-{split}-{index:03d}", f"organ{number + 1}", split, features, cells, positive)


def unit(draw: np.random.Generator, dimension: int) -> np.ndarray:
    """A random direction."""
    vector = draw.normal(size=dimension)
    return vector / np.linalg.norm(vector)


def towards(first: np.ndarray, other: np.ndarray, cosine: float) -> np.ndarray:
    """A unit vector whose cosine with the unit vector ``first`` is ``cosine``; the remainder points along ``other``."""
    rest = other - (other @ first) * first
    turned: np.ndarray = cosine * first + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest)
    return turned


def _blot(draw: np.random.Generator, cells: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` cells that lie nearest to a random cell: (N,) bool.

    They are connected: of two cells at different distances the nearer one always comes first, and every cell of a grid has a
    neighbour nearer to the middle.
    """
    middle = cells[draw.integers(len(cells))]
    distance = ((cells - middle) ** 2).sum(axis=1) + 0.5 * draw.random(len(cells))
    chosen = np.zeros(len(cells), bool)
    chosen[np.argsort(distance)[:count]] = True
    return chosen
