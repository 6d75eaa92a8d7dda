"""Bags of several scales: one scale taken out, or each tile's features followed by those of its coarser tiles.

Joining is the feature pyramid of Li et al., "Dual-stream multiple instance learning" (CVPR 2021), section 3.3: a tile keeps
its place and gains the context of its surroundings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from comel.bags.bag import Bag, read_bag, read_bag_header, write_bag
from comel.bags.foreign import feature_files, read_any_bag
from comel.base.files import sha256_of_arrays, sha256_of_json
from comel.base.progress import progress_bar
from comel.errors import BagError, ConfigError

__all__ = ["ScaledBags", "join_scales", "take_scale", "write_scaled"]


@dataclass(frozen=True)
class ScaledBags:
    """The outcome for a folder of bags: how many were written, and how many existed already."""

    written: int
    kept: int


def take_scale(bag: Bag, mpp: float) -> Bag:
    """One scale as an ordinary bag.

    Args:
        bag: a bag, of one scale or several.
        mpp: micrometres per pixel of the wanted scale, within 1 %; the bag's own scale counts.

    Raises:
        BagError: the bag has no such scale.
    """
    for level in (bag, *bag.scales):
        if level.contract.mpp is not None and abs(level.contract.mpp - mpp) <= 0.01 * mpp:
            return replace(level, parent=None, scales=(), settings={**bag.settings, "scale_taken": level.contract.mpp})
    known = [f"{level.contract.mpp:g}" for level in (bag, *bag.scales) if level.contract.mpp is not None]
    raise BagError(
        f"{bag.slide_id}: no scale of {mpp:g} um/px (it has {', '.join(known) or 'no stated scale'})",
        f"choose one of these, or extract with --also-mpp {mpp:g}",
    )


def join_scales(bag: Bag) -> Bag:
    """A bag of the finest scale's tiles, each tile's features followed by those of the coarser tiles that contain it.

    With S scales of dimension D the features have S * D columns, finest first; the contract's ``joined_mpp`` lists the
    coarser scales. Coordinates, labels and quality are those of the finest scale.

    Raises:
        BagError: the bag has only one scale.
    """
    if not bag.scales:
        raise BagError(f"{bag.slide_id}: the bag has only one scale", "extract with --also-mpp")
    columns, row, finer = [bag.features], np.arange(len(bag)), bag
    for scale in bag.scales:
        assert finer.parent is not None
        row = finer.parent[row]
        columns.append(scale.features[row])
        finer = scale
    joined = tuple(scale.geometry.mpp_x for scale in bag.scales if scale.geometry is not None)
    contract = replace(bag.contract, dimension=bag.contract.dimension * (1 + len(bag.scales)), joined_mpp=joined)
    return replace(
        bag,
        features=np.concatenate(columns, axis=1),
        contract=contract,
        parent=None,
        scales=(),
        settings={**bag.settings, "scales_joined": list(joined)},
    )


def write_scaled(paths: Sequence[Path], out: Path, change: Callable[[Bag], Bag], *, quiet: bool = False) -> ScaledBags:
    """Write ``out/<slide_id>.h5`` for each feature file; a second run continues where the first stopped.

    Args:
        paths: feature files, or folders of them.
        out: the folder to write. An existing bag must have the same content, and is left alone.
        change: :func:`join_scales`, or :func:`take_scale` of one scale.
        quiet: print no progress.

    Raises:
        BagError: there is no feature file, or one of them cannot be used.
        ConfigError: ``out`` holds another bag under one of the names.
    """
    files = feature_files(paths)
    written = kept = 0
    with progress_bar(len(files), "scales", quiet=quiet) as advance:
        for file in files:
            bag = change(read_any_bag(file, verify=True))
            target = Path(out) / f"{bag.slide_id}.h5"
            if not target.is_file():
                write_bag(target, bag)
                written += 1
            elif _holds(target, bag):
                kept += 1
            else:
                raise ConfigError(f"{target}: holds another bag", "choose another --out, or remove the file")
            advance(1, text=bag.slide_id)
    return ScaledBags(written, kept)


def _holds(path: Path, bag: Bag) -> bool:
    """Whether a file is a complete bag with the same arrays and settings."""
    header = read_bag_header(path)
    if header.get("settings_hash") != sha256_of_json(bag.settings):
        return False
    return header.get("checksum") == sha256_of_arrays(bag.arrays()) and len(read_bag(path, verify=True)) == len(bag)
