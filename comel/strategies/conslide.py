"""ConSlide's rehearsal: bags are broken up into regions, and regions of several slides make up a new bag of their class.

Huang et al. (2023, ICCV, section 3.3): keeping some regions of many slides instead of a few whole slides shows later tasks more
of the old ones in the same space. Here, for bags of features:

- break up: a region is a square of ``region_side`` x ``region_side`` tiles or, without coordinates, as many consecutive rows;
- keep: a random sample of each class's regions, the space shared equally between the classes;
- reorganise: a class is drawn, and regions of it, each from a different slide as far as possible, until they have as many
  instances as an average bag; they are laid out as a mosaic, rows in row-major order as in any bag.

The published model, a hierarchical transformer, is not part of it.

**Reliability of a reorganised bag's label.** Every region of a negative slide is negative. A region of a positive slide may
hold no positive instance: if a share q of the regions does, a bag of n regions is labelled wrongly with probability (1 - q)^n,
which is small for large tumours and near one for micrometastases. No region is dropped for lack of evidence, as in the
published method: only the model could name such regions, and its mistakes would then teach every later one. If findings are
small, whole bags (``er``, ``derpp``) are the better memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from comel.base.files import write_json
from comel.errors import RunError
from comel.models.base import BagBatch, BagOutput, MILModel
from comel.nn.neighbours import cells_of
from comel.strategies.base import Stage, StageBags
from comel.strategies.persistence import read_state, read_tensors, write_tensors
from comel.strategies.rehearsal import Rehearsal, RehearsalOptions, compact, of_stored

__all__ = ["ConSlide", "ConSlideOptions", "Region", "RegionStore", "break_up", "reorganise"]

_FILE = "regions.safetensors"
_STATE = "strategy.json"
_ENTERING, _DRAWING = 0, 1
_TILE, _STEP = 256, 32


@dataclass(frozen=True)
class Region:
    """A piece of a bag, on the CPU.

    Attributes:
        features: (n, D) float32, or float16 if that is lossless.
        place: (n, 2) float64, x and y of its tiles from the region's corner, in tile distances; or None.
        column: the column of the bag's label.
        slide: the number of the bag it is from.
        rank: in [0, 1), random; the regions of lowest rank are kept.
    """

    features: Tensor
    place: Tensor | None
    column: int
    slide: int
    rank: float

    def __len__(self) -> int:
        return len(self.features)


def break_up(bag: BagBatch, side: int) -> list[tuple[Tensor, Tensor | None]]:
    """The regions of a bag (B = 1): rows (n,) and place (n, 2) as in :class:`Region`, row order kept.

    A tile is in one region only.
    """
    rows = torch.arange(bag.features.shape[1]) if bag.mask is None else bag.mask[0].cpu().nonzero()[:, 0]
    if bag.coords is None:
        return [(part, None) for part in rows.split(side * side)]
    tiles = cells_of(bag.coords[0].cpu()[rows])
    squares = tiles // side
    tiles = tiles.double()
    members = [(squares == square).all(dim=1).nonzero()[:, 0] for square in torch.unique(squares, dim=0)]
    return [(rows[part], tiles[part] - tiles[part].min(dim=0).values) for part in members]


def reorganise(regions: list[Region], side: int) -> BagBatch:
    """One bag out of regions: squares of a mosaic, or one list after another if a region has no place.

    Squares are one tile apart, so that no tile has a neighbour from another region.
    Slides of different resolutions are combined, so the mosaic's tiles are all 256 pixels apart, and at multiples
    of 32: a slide's own rounding would split rows.
    """
    features = torch.cat([region.features.float() for region in regions])
    places = [region.place for region in regions if region.place is not None]
    if len(places) < len(regions):
        return BagBatch(features.unsqueeze(0))
    across = math.ceil(math.sqrt(len(regions)))
    corners = [torch.tensor([i % across, i // across]) * (side + 1) for i in range(len(regions))]
    coords = torch.cat([place + corner for place, corner in zip(places, corners, strict=True)])
    pixels = (coords * _TILE / _STEP).round().long() * _STEP
    order = torch.from_numpy(np.lexsort((pixels[:, 0].numpy(), pixels[:, 1].numpy())))
    return BagBatch(features[order].unsqueeze(0), pixels[order].unsqueeze(0))


class RegionStore:
    """A random sample of each class's regions, within the space of ``bags`` bags of average size.

    Each region gets a random rank, and those of lowest rank stay. Random numbers are drawn from the seed and a count, so that a
    store read from a folder continues exactly as before.
    """

    def __init__(self, bags: int, side: int, seed: int = 0) -> None:
        self.bags, self.side, self.seed = bags, side, seed
        self.regions: list[Region] = []
        self.seen_bags = self.seen_instances = self.drawn = 0

    @property
    def average(self) -> int:
        """The number of instances of an average bag."""
        return round(self.seen_instances / max(1, self.seen_bags))

    def offer(self, bag: BagBatch, column: int) -> None:
        """Break a bag up, and keep the regions that fit."""
        parts = break_up(bag, self.side)
        ranks = np.random.default_rng([self.seed, _ENTERING, self.seen_bags]).random(len(parts))
        for (rows, place), rank in zip(parts, ranks, strict=True):
            features = compact(bag.features[0, rows.to(bag.features.device)])
            self.regions.append(Region(features, place, column, self.seen_bags, float(rank)))
        self.seen_bags += 1
        self.seen_instances += sum(len(rows) for rows, _ in parts)
        self._make_room()

    def _make_room(self) -> None:
        """The regions of lowest rank of each class, as many as its share holds and at least one."""
        columns = sorted({region.column for region in self.regions})
        share = self.bags * self.average / len(columns)
        kept = []
        for column in columns:
            held = 0
            for region in sorted((r for r in self.regions if r.column == column), key=lambda r: r.rank):
                if held and held + len(region) > share:
                    break
                kept.append(region)
                held += len(region)
        self.regions = kept

    def draw(self, instances: int | None = None) -> tuple[BagBatch, int] | None:
        """A reorganised bag and its column; None if nothing is stored.

        Args:
            instances: stop at the region that reaches this number; default an average bag's.
        """
        if not self.regions:
            return None
        generator = np.random.default_rng([self.seed, _DRAWING, self.drawn])
        self.drawn += 1
        column = int(generator.choice(sorted({region.column for region in self.regions})))
        of_class = [region for region in self.regions if region.column == column]
        shuffled = [of_class[index] for index in generator.permutation(len(of_class))]
        turns: dict[int, int] = {}
        in_turn = []
        for region in shuffled:
            turns[region.slide] = turns.get(region.slide, 0) + 1
            in_turn.append((turns[region.slide], region))
        chosen: list[Region] = []
        for _, region in sorted(in_turn, key=lambda pair: pair[0]):
            if sum(map(len, chosen)) >= min(self.average, instances or self.average):
                break
            chosen.append(region)
        return reorganise(chosen, self.side), column

    @property
    def bytes(self) -> int:
        """The stored bytes."""
        return sum(r.features.nbytes + (0 if r.place is None else r.place.nbytes) for r in self.regions)

    def save(self, folder: Path) -> None:
        """``regions.safetensors`` if there are regions, and the counts in ``strategy.json``."""
        if self.regions:
            tensors = {f"{i}.features": region.features for i, region in enumerate(self.regions)}
            tensors |= {f"{i}.place": region.place for i, region in enumerate(self.regions) if region.place is not None}
            for name, kind in (("column", torch.int64), ("slide", torch.int64), ("rank", torch.float64)):
                tensors[name] = torch.tensor([getattr(region, name) for region in self.regions], dtype=kind)
            write_tensors(folder / _FILE, tensors)
        counts = {name: getattr(self, name) for name in ("seed", "seen_bags", "seen_instances", "drawn")}
        write_json(folder / _STATE, {**counts, "regions": len(self.regions)})

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            RunError: a file is missing or damaged.
        """
        state = read_state(folder / _STATE)
        try:
            for name in ("seed", "seen_bags", "seen_instances", "drawn"):
                setattr(self, name, int(state[name]))
            number = int(state["regions"])
            tensors = read_tensors(folder / _FILE) if number else {}
            self.regions = [
                Region(
                    tensors[f"{i}.features"],
                    tensors.get(f"{i}.place"),
                    int(tensors["column"][i]),
                    int(tensors["slide"][i]),
                    float(tensors["rank"][i]),
                )
                for i in range(number)
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise RunError(f"{folder}: the stored regions are not complete", "restore the run from a copy") from None


class ConSlideOptions(RehearsalOptions):
    """Settings of the strategy; ``bags`` is the space for regions, in bags of average size, and ``max_instances`` about the
    size of a reorganised bag, by default an average one."""

    region_side: int = Field(16, ge=1, le=65536, description="side of a region, in tiles")
    alpha: float = Field(1.0, ge=0, description="weight of the reorganised bag's loss")


class ConSlide(Rehearsal):
    """See the module. Bags are broken up when their task is learned, each once (:mod:`comel.strategies.rehearsal`)."""

    Options = ConSlideOptions
    options: ConSlideOptions

    def new_memory(self) -> RegionStore:
        """The empty store of regions."""
        return RegionStore(self.options.bags, self.options.region_side)

    def loss(self, model: MILModel, bags: BagBatch, output: BagOutput, labels: Tensor) -> dict[str, Tensor]:
        """The model's terms, and from the second task on those of a reorganised bag as ``stored_*``."""
        terms = super().loss(model, bags, output, labels)
        drawn = self.memory.draw(self.options.max_instances)
        if drawn is None:
            return terms
        bag, column = drawn
        again = model(bag.to(bags.features.device))
        return terms | of_stored(model.loss(again, torch.tensor([column], device=labels.device)), self.options.alpha)

    def after_task(self, model: MILModel, stage: Stage, bags: StageBags) -> None:
        """Break the stage's bags up."""
        for bag, column in bags:
            self.memory.offer(bag, column)
