"""The suite ``context``: bags whose two classes have the same tiles and differ only in their arrangement or combination.

In the other suites one tile decides. Here a single tile says nothing about its bag, except in the control ``presence`` and in
``proportion``: how many tiles a finding covers is drawn in the same way for both classes. A task is a pattern, in its
own organ:

``presence``
    a cluster of tumour, or none. The control: one tile decides.
``co-occurrence``
    two findings, or twice as much of one of them alone.
``adjacency``
    lymphocytes around the tumour, or around ordinary tissue away from it.
``proportion``
    tumour on 30 to 45 % of the tissue, or on 5 to 20 %.
``arrangement``
    one cluster of tumour, or as many tiles of it scattered one by one.
``count``
    four to six clusters of tumour, or one or two with as many tiles.
``long-range``
    two clusters far apart that show the same finding, or one of each.
``scale``
    glands four tiles wide, a ring around a core, or the same tiles in disorder.

A tile's features are x = organ + tissue + slide + finding + noise, as in :mod:`comel.app.benchmark.features`. Tissue is ragged
and has holes; its ordinary kinds form patches. The tiles that decide carry the instance label 1, in bags of the positive class
only. :func:`oracle` gives the label from the true kinds and places of the tiles: what a perfect tile classifier and the
rule reach.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import distance_transform_cdt, gaussian_filter, label

from comel.app.benchmark.features import towards, unit
from comel.app.benchmark.storage import MadeBag, TileRange, write_stream
from comel.bags.contract import FeatureContract
from comel.base.numbers import MOST_SEED

__all__ = ["PATTERNS", "ContextSettings", "Pattern", "Scene", "draw_scene", "make_context", "oracle"]

Pattern = Literal["presence", "co-occurrence", "adjacency", "proportion", "arrangement", "count", "long-range", "scale"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

ORDINARY, FIRST, SECOND = 0, 1, 2
"""Kinds of tiles: ordinary tissue; tumour, or a gland's ring; lymphocytes, another finding, or a gland's core."""
_TISSUES = 4
_STAINS = 3
_MANY = (0.30, 0.45)
_FEW = (0.05, 0.20)
_BOUND = 0.25
_SPLITS = ("train", "val", "test")
_GLAND = 4
_BESIDE = 3
_TRIES = 4


class ContextSettings(BaseModel):
    """Settings of :func:`make_context`; the same settings give the same bags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, le=MOST_SEED, description="seed of all random choices")
    difficulty: float = Field(0.5, ge=0, le=1, description="0 easy to 1 hard: how weak the findings are relative to the noise")
    patterns: tuple[Pattern, ...] = Field(PATTERNS, min_length=1, description="the tasks, one after another")
    dimension: int = Field(64, ge=8, description="length of a feature vector")
    train: int = Field(60, ge=2, multiple_of=2, description="training bags per task, half of them positive")
    val: int = Field(20, ge=2, multiple_of=2, description="validation bags per task")
    test: int = Field(60, ge=2, multiple_of=2, description="test bags per task")
    tiles: TileRange = Field((200, 1000), description="fewest and most tiles per bag")


@dataclass(frozen=True)
class Scene:
    """The layout of a slide's tiles.

    Attributes:
        cells: (N, 2) column and row of each tile.
        kinds: (N,) :data:`ORDINARY`, :data:`FIRST` or :data:`SECOND`.
        deciding: (N,) bool, the tiles that decide; none on a negative slide.
    """

    cells: np.ndarray
    kinds: np.ndarray
    deciding: np.ndarray


def make_context(folder: Path, settings: ContextSettings) -> Path:
    """Write the stream's bags and manifest; returns the manifest, which is written last."""
    contract = FeatureContract(f"synthetic-context-{settings.dimension}", None, settings.dimension, 0.5, 256)
    return write_stream(folder, _bags(settings), contract)


def _bags(settings: ContextSettings) -> Iterator[MadeBag]:
    dimension, hard = settings.dimension, settings.difficulty
    world = np.random.default_rng([settings.seed, 0])
    stains = [unit(world, dimension) for _ in range(_STAINS)]
    for pattern in settings.patterns:
        number = PATTERNS.index(pattern)
        place = np.random.default_rng([settings.seed, 1, number])
        organ = 4.0 * unit(place, dimension)
        tissues = np.stack([3.0 * unit(place, dimension) for _ in range(_TISSUES)])
        first = unit(place, dimension)
        second = towards(first, unit(place, dimension), 0.0)
        findings = (5.0 - 2.5 * hard) * np.stack([np.zeros(dimension), first, second])
        for split, count in zip(_SPLITS, (settings.train, settings.val, settings.test), strict=True):
            for index in range(count):
                draw = np.random.default_rng([settings.seed, 2, number, _SPLITS.index(split), index])
                scene = draw_scene(pattern, bool(index % 2), int(draw.integers(*settings.tiles, endpoint=True)), draw)
                features = organ + tissues[_patches(draw, scene.cells)] + findings[scene.kinds]
                features = features + sum(draw.normal() * stain for stain in stains)
                features = features + draw.normal(size=features.shape)
                name = f"{pattern}-{split}-{index:03d}"
                yield MadeBag(name, pattern, split, features, scene.cells, scene.deciding)


def draw_scene(pattern: Pattern, positive: bool, count: int, draw: np.random.Generator) -> Scene:
    """A slide of ``count`` tiles that shows the pattern, or its counterpart.

    If its tissue has no room for the pattern, so that the rule gives the other label, it is redrawn.
    """
    while True:
        scene = _draw(pattern, positive, count, draw)
        if oracle(pattern, scene.cells, scene.kinds) == positive:
            return scene


def _draw(pattern: Pattern, positive: bool, count: int, draw: np.random.Generator) -> Scene:
    cells = _tissue(draw, count)
    kinds = np.full(count, ORDINARY)
    match pattern:
        case "presence":
            if positive:
                kinds[_cluster(draw, cells, _share(draw, 0.02, 0.15, count))] = FIRST
        case "co-occurrence":
            some = _share(draw, 0.03, 0.08, count)
            lone = int(draw.integers(FIRST, SECOND, endpoint=True))
            for kind in (FIRST, SECOND) if positive else (lone, lone):
                kinds[_cluster(draw, cells, some, free=kinds == ORDINARY)] = kind
        case "adjacency":
            _surround(draw, cells, kinds, apart=not positive)
        case "proportion":
            total = _share(draw, *(_MANY if positive else _FEW), count)
            _clusters(draw, cells, kinds, total, int(draw.integers(2, 5)))
        case "arrangement":
            total = _share(draw, 0.03, 0.06, count)
            if positive:
                kinds[_cluster(draw, cells, total)] = FIRST
            else:
                kinds[_scattered(draw, cells, total)] = FIRST
        case "count":
            total = _share(draw, 0.08, 0.15, count)
            _clusters(draw, cells, kinds, total, int(draw.integers(4, 7) if positive else draw.integers(1, 3)), apart=True)
        case "long-range":
            lone = int(draw.integers(FIRST, SECOND, endpoint=True))
            _far_apart(draw, cells, kinds, _share(draw, 0.03, 0.06, count), (lone, lone if positive else FIRST + SECOND - lone))
        case "scale":
            _glands(draw, cells, kinds, _share(draw, 0.10, 0.20, count), in_order=positive)
    return Scene(cells, kinds, _deciding(pattern, kinds) if positive else np.zeros(count, bool))


def _deciding(pattern: Pattern, kinds: np.ndarray) -> np.ndarray:
    """For ``adjacency`` the lymphocytes decide, otherwise every tile of a finding."""
    deciding: np.ndarray = kinds == SECOND if pattern == "adjacency" else kinds != ORDINARY
    return deciding


def oracle(pattern: Pattern, cells: np.ndarray, kinds: np.ndarray) -> bool:
    """Whether a slide shows the pattern, from the true kind and the place of each tile."""
    first, second = kinds == FIRST, kinds == SECOND
    match pattern:
        case "presence":
            return bool(first.any())
        case "co-occurrence":
            return bool(first.any() and second.any())
        case "adjacency":
            return bool(np.median(_distance_to(cells, first)[second]) <= _BESIDE)
        case "proportion":
            return bool(first.mean() > _BOUND)
        case "arrangement":
            return bool(_parts(cells, first) < 0.5 * first.sum())
        case "count":
            return _parts(cells, first) > 2
        case "long-range":
            return not (first.any() and second.any())
        case "scale":
            # In a gland no tile of the core touches the tissue around it.
            return bool((_distance_to(cells, kinds == ORDINARY)[second] > 1).all())


def _share(draw: np.random.Generator, least: float, most: float, count: int) -> int:
    return max(2, round(draw.uniform(least, most) * count))


def _tissue(draw: np.random.Generator, count: int) -> np.ndarray:
    """``count`` cells of one ragged piece of tissue with holes: it grows over the hills of a smooth random field."""
    side = int(np.ceil(np.sqrt(2.2 * count)))
    lines, columns = np.mgrid[:side, :side]
    radius = np.hypot(lines - (side - 1) / 2, columns - (side - 1) / 2) / (side / 2)
    field = gaussian_filter(draw.normal(size=(side, side)), 1.5)
    field = field / field.std() - 2.0 * radius**2
    everywhere = np.stack([columns.ravel(), lines.ravel()], axis=1)
    grown: np.ndarray = everywhere[_grown(everywhere, -field.ravel(), int(field.argmax()), count)]
    return grown


def _patches(draw: np.random.Generator, cells: np.ndarray) -> np.ndarray:
    """The ordinary kind of tissue under each tile, in patches, (N,)."""
    side = int(cells.max()) + 1
    fields = np.stack([gaussian_filter(draw.normal(size=(side, side)), 2.0) for _ in range(_TISSUES)])
    fields = fields / fields.std(axis=(1, 2), keepdims=True) + draw.normal(scale=0.5, size=(_TISSUES, 1, 1))
    return np.asarray(fields[:, cells[:, 1], cells[:, 0]].argmax(axis=0))


def _cluster(
    draw: np.random.Generator, cells: np.ndarray, size: int, *, free: np.ndarray | None = None, near: np.ndarray | None = None
) -> np.ndarray:
    """Rows of ``size`` connected free cells around a random one, or around ``near``; fewer if there are no more."""
    rows = np.arange(len(cells)) if free is None else np.flatnonzero(free)
    middle = cells[draw.choice(rows)] if near is None else near
    distance = ((cells[rows] - middle) ** 2).sum(axis=1) + 0.5 * draw.random(len(rows))
    grown: np.ndarray = rows[_grown(cells[rows], distance, int(distance.argmin()), size)]
    return grown


def _grown(cells: np.ndarray, cost: np.ndarray, start: int, size: int) -> np.ndarray:
    """Rows of ``size`` cells, connected by sides or corners, that grow from ``start`` to the cheapest cell at their rim."""
    row_of = {(int(column), int(line)): row for row, (column, line) in enumerate(cells)}
    rim, seen, grown = [(float(cost[start]), start)], {start}, list[int]()
    while rim and len(grown) < size:
        _, row = heapq.heappop(rim)
        grown.append(row)
        column, line = (int(place) for place in cells[row])
        for near in ((column + dx, line + dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
            if (other := row_of.get(near)) is not None and other not in seen:
                seen.add(other)
                heapq.heappush(rim, (float(cost[other]), other))
    return np.array(grown)


def _clusters(
    draw: np.random.Generator, cells: np.ndarray, kinds: np.ndarray, total: int, number: int, *, apart: bool = False
) -> None:
    """Put ``total`` tiles of the first finding in ``number`` clusters; ``apart``, none touches another."""
    for size in np.diff(np.linspace(0, total, number + 1).round().astype(int)):
        free = kinds == ORDINARY
        if apart and (kinds == FIRST).any():
            free &= _distance_to(cells, kinds == FIRST) > 1
        tries = [_cluster(draw, cells, int(size), free=free) for _ in range(_TRIES)]
        kinds[max(tries, key=len)] = FIRST


def _scattered(draw: np.random.Generator, cells: np.ndarray, total: int) -> np.ndarray:
    """Rows of cells, no two of which touch, as far as there is room."""
    side = int(cells.max()) + 3
    taken = np.zeros((side, side), bool)
    rows: list[int] = []
    for row in draw.permutation(len(cells)):
        column, line = cells[row] + 1
        if not taken[line - 1 : line + 2, column - 1 : column + 2].any():
            taken[line, column] = True
            rows.append(int(row))
            if len(rows) == total:
                break
    return np.array(rows)


def _surround(draw: np.random.Generator, cells: np.ndarray, kinds: np.ndarray, *, apart: bool) -> None:
    """A cluster of tumour, and lymphocytes around it or around ordinary tissue as far away as possible."""
    size = _share(draw, 0.04, 0.08, len(cells))
    tumour = _cluster(draw, cells, size)
    kinds[tumour] = FIRST
    centre = tumour
    if apart:
        away = _distance_to(cells, kinds == FIRST)
        middle = cells[draw.choice(np.flatnonzero(away >= np.quantile(away, 0.98)))]
        centre = _cluster(draw, cells, size, free=kinds == ORDINARY, near=middle)
    core = np.zeros(len(cells), bool)
    core[centre] = True
    free = np.flatnonzero((kinds == ORDINARY) & ~core)
    around = _distance_to(cells, core)[free] + draw.random(len(free))
    kinds[free[np.argsort(around)[:size]]] = SECOND


def _far_apart(draw: np.random.Generator, cells: np.ndarray, kinds: np.ndarray, size: int, pair: tuple[int, int]) -> None:
    """Two clusters at opposite ends of the tissue."""
    angle = draw.uniform(0, 2 * np.pi)
    along = cells @ np.array([np.cos(angle), np.sin(angle)])
    for kind, end in zip(pair, (along <= np.quantile(along, 0.15), along >= np.quantile(along, 0.85)), strict=True):
        middle = cells[draw.choice(np.flatnonzero(end))]
        kinds[_cluster(draw, cells, size, free=kinds == ORDINARY, near=middle)] = kind


def _glands(draw: np.random.Generator, cells: np.ndarray, kinds: np.ndarray, total: int, *, in_order: bool) -> None:
    """Squares of four by four tiles: a ring of the first finding around a core of the second, or the same in disorder."""
    row_of = {(int(column), int(line)): row for row, (column, line) in enumerate(cells)}
    offsets = [(column, line) for line in range(_GLAND) for column in range(_GLAND)]
    inside = [0 < column < _GLAND - 1 and 0 < line < _GLAND - 1 for column, line in offsets]
    ordered = np.where(inside, SECOND, FIRST)
    for start in draw.permutation(len(cells)):
        if (kinds != ORDINARY).sum() >= total:
            break
        column, line = cells[start]
        around = [(int(column) + dx, int(line) + dy) for dx in range(-1, _GLAND + 1) for dy in range(-1, _GLAND + 1)]
        square = [row_of.get((int(column) + dx, int(line) + dy)) for dx, dy in offsets]
        taken = any(place in row_of and kinds[row_of[place]] != ORDINARY for place in around)
        if None in square or taken:
            continue
        kinds[np.array(square)] = ordered if in_order else _disordered(draw, ordered, inside)


def _disordered(draw: np.random.Generator, ordered: np.ndarray, inside: list[bool]) -> np.ndarray:
    """The gland's tiles in another order, with at least one of the core at the rim."""
    while True:
        mixed = draw.permutation(ordered)
        if (mixed[~np.array(inside)] == SECOND).any():
            return mixed


def _distance_to(cells: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N,) the distance of each cell from the nearest chosen one, in king's moves; glass does not count as chosen."""
    columns, lines = (int(end) + 1 for end in cells.max(axis=0))
    plane = np.ones((lines, columns), np.uint8)
    plane[cells[chosen, 1], cells[chosen, 0]] = 0
    distance: np.ndarray = np.asarray(distance_transform_cdt(plane, "chessboard"))[cells[:, 1], cells[:, 0]]
    return distance


def _parts(cells: np.ndarray, chosen: np.ndarray) -> int:
    """The number of connected groups of chosen cells, counting neighbours at corners."""
    columns, lines = (int(end) + 1 for end in cells.max(axis=0))
    plane = np.zeros((lines, columns), bool)
    plane[cells[chosen, 1], cells[chosen, 0]] = True
    return int(label(plane, np.ones((3, 3)))[1])
