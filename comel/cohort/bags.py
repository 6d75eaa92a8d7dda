"""The bags of a cohort's cases: read, checked against the feature contract, joined and kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from comel.bags.bag import Bag
from comel.bags.contract import FeatureContract
from comel.bags.foreign import bag_path, read_any_bag
from comel.bags.geometry import tile_cells, tile_spacing
from comel.cohort.tasks import Case
from comel.errors import BagError, FeatureMismatch

__all__ = ["BagStore", "check_contract", "join_slides", "usable"]


_ROWS_BETWEEN_SLIDES = 16
"""More than the side of any block of tiles in a layer, so that no block spans two slides."""


class BagStore:
    """Reads bags by case, checks them against the feature contract, and keeps them in memory while there is room.

    The bags read first stay: with least-recently-used eviction, an epoch larger than the cache would never hit.

    Args:
        folder: feature files.
        contract: the contract that features must meet; None takes it from the first bag read.
        assume_encoder: encoder of files that do not state one.
        cache_bytes: memory for cached bags.
    """

    def __init__(
        self,
        folder: Path,
        contract: FeatureContract | None = None,
        *,
        assume_encoder: str | None = None,
        cache_bytes: float = 2 * 2**30,
    ) -> None:
        self.folder, self.contract = Path(folder), contract
        self._assume_encoder, self._room = assume_encoder, cache_bytes
        self._kept: dict[str, Bag] = {}

    def read(self, case: Case) -> Bag:
        """A case's bag.

        Raises:
            BagError: a file is missing or damaged.
            FeatureMismatch: its features were not made as the contract requires.
        """
        if case.name in self._kept:
            return self._kept[case.name]
        bags = []
        for slide in case.slides:
            path = bag_path(self.folder, slide)
            bag = read_any_bag(path, assume_encoder=self._assume_encoder)
            self.contract = self.contract or bag.contract
            check_contract(self.contract, bag, path)
            bags.append(bag)
        joined = join_slides(case.name, bags)
        if _bytes(joined) <= self._room:
            self._room -= _bytes(joined)
            self._kept[case.name] = joined
        return joined

    def keep_only(self, cases: Iterable[Case]) -> None:
        """Drop the bags of all other cases to make room for these, such as at the start of a stage."""
        names = {case.name for case in cases}
        for name in [name for name in self._kept if name not in names]:
            self._room += _bytes(self._kept.pop(name))


def check_contract(contract: FeatureContract, bag: Bag, where: Path | str) -> None:
    """Raise :class:`FeatureMismatch` unless the bag's features were made as the contract requires."""
    difference = contract.difference(bag.contract)
    if difference is None:
        return
    remedy = "extract the slides with the encoder and the tile size of the others"
    if bag.contract.encoder is None and contract.encoder is not None:
        remedy = f"if the features are from it, give --assume-encoder {contract.encoder}"
    elif len(bag.contract.joined_mpp) < len(contract.joined_mpp):
        remedy = "extract the slides at these scales, and join them: comel bags join-scales"
    raise FeatureMismatch(f"{where}: {difference}", remedy)


def join_slides(name: str, bags: Sequence[Bag]) -> Bag:
    """One bag from a case's slides, stacked one below another, all with the tile distance of the first.

    So no two tiles share a place, and neighbours stay neighbours, whatever the slides' resolutions.
    """
    if len(bags) == 1:
        return bags[0]
    features = np.concatenate([bag.features for bag in bags])
    labels = None
    if all(bag.labels is not None for bag in bags):
        labels = np.concatenate([bag.labels for bag in bags if bag.labels is not None])
    coords = None
    placed = [bag.coords for bag in bags if bag.coords is not None]
    if len(placed) == len(bags):
        laid, below = [], 0
        for one in placed:
            cells = tile_cells(one) + np.array([0, below])
            below = int(cells[:, 1].max(initial=below)) + _ROWS_BETWEEN_SLIDES
            laid.append(cells)
        coords = np.rint(np.concatenate(laid) * tile_spacing(placed[0])).astype(np.int64)
    shared = replace(bags[0], slide_id=name, geometry=None, quality={}, parent=None, scales=())
    return replace(shared, features=features, coords=coords, labels=labels)


def _bytes(bag: Bag) -> int:
    return sum(array.nbytes for array in bag.arrays().values())


def usable(bag: Bag) -> Bag:
    """The bag, if it has any instances to learn from.

    Raises:
        BagError: it is empty.
    """
    if not len(bag):
        reason = next(iter(bag.notes), "no tissue")
        raise BagError(f"{bag.slide_id}: the bag has no instances ({reason})", "take the slide out of the training rows")
    return bag
