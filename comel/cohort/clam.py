"""Bags in the layout that CLAM (Lu et al., Nature Biomedical Engineering 5:555, 2021) loads.

=====================================  ==============================================================================
file                                   what
=====================================  ==============================================================================
``pt_files/<id>.pt``                   the features as one float32 tensor (N, D): what CLAM trains on
``h5_files/<id>.h5``                   ``features`` float32 and ``coords``, level-0 pixels
``patches/<id>.h5``                    ``coords`` with CLAM's attributes: the tile's size at level 0
``dataset_csv/<task>.csv``             ``case_id, slide_id, label`` of a task's slides
``splits/<task>/splits_0.csv``         one column of slides each for ``train``, ``val`` and ``test``
=====================================  ==============================================================================

CLAM's ``case_id`` must not be in two splits, so it holds the patient.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.bag import MAX_BAG_BYTES, Bag
from comel.bags.foreign import feature_files, read_any_bag
from comel.base.files import atomic_path
from comel.base.hdf5 import open_hdf5, read_dataset
from comel.base.names import composed
from comel.base.progress import progress_bar
from comel.base.text import listed
from comel.cohort.manifest import SPLITS, Manifest, ManifestRow, read_manifest
from comel.errors import BagError, ConfigError, ManifestError

__all__ = ["ClamExport", "export_clam"]


@dataclass(frozen=True)
class ClamExport:
    """The result of an export.

    Attributes:
        written: bags for which at least one file was written.
        kept: bags whose files all existed already.
        empty: slides without a tile, which CLAM cannot load; they are left out.
        tables: the CSV files; empty without a manifest.
    """

    written: int
    kept: int
    empty: tuple[str, ...]
    tables: tuple[Path, ...]


def export_clam(
    paths: Sequence[Path], out: Path, *, manifest: Path | None = None, root: Path | None = None, quiet: bool = False
) -> ClamExport:
    """Write bags as CLAM loads them; a second run continues where the first stopped.

    An existing file must have the same content, and is left alone.

    Args:
        paths: feature files, or folders of them, with coordinates in level-0 pixels and a known tile size.
        out: the folder to write.
        manifest: export only the slides of this cohort, and write its tables. Slides without a split are dealt out as
            ``comel train`` does by default.
        root: folder that the manifest's relative paths start from.
        quiet: print no progress.

    Raises:
        BagError: there is no feature file, two are of one slide, a slide of the manifest has none, or one does not say
            where its tiles lie.
        ManifestError: the manifest cannot be used, or has slide names that CLAM's table reader changes.
        ConfigError: ``out`` holds other content under one of the names.
    """
    out = Path(out)
    files = _by_slide(feature_files(paths))
    cohort = None if manifest is None else read_manifest(manifest, root=root)
    if cohort is not None:
        files = _of_cohort(files, cohort)
        for task in cohort.tasks:
            _check_names(cohort.path, cohort.select(task=task))
    written, empty = 0, []
    with progress_bar(len(files), "export", quiet=quiet) as advance:
        for slide, file in files.items():
            bag = read_any_bag(file)
            if len(bag):
                written += _write_bag(out, slide, bag, file)
            else:
                empty.append(slide)
            advance(1, text=slide)
    tables = () if cohort is None else _write_tables(out, cohort, set(empty))
    return ClamExport(written, len(files) - written - len(empty), tuple(empty), tables)


def _by_slide(files: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise BagError(f"{found[file.stem]} and {file} are both of slide {file.stem!r}", "export them to two folders")
        found[file.stem] = file
    return found


def _of_cohort(files: Mapping[str, Path], cohort: Manifest) -> dict[str, Path]:
    otherwise_written = {composed(name): file for name, file in files.items()}
    found = {row.slide_id: files.get(row.slide_id, otherwise_written.get(composed(row.slide_id))) for row in cohort.rows}
    missing = [slide for slide, file in found.items() if file is None]
    if missing:
        raise BagError(
            f"{cohort.path.name}: no feature file of {listed(missing)}", "extract them first, or take them out of the manifest"
        )
    return {slide: file for slide, file in found.items() if file is not None}


def _write_bag(out: Path, slide: str, bag: Bag, source: Path) -> bool:
    """Write a bag's three files; returns whether any was missing."""
    import torch

    tile = _tile_attributes(slide, bag, source)
    features = np.ascontiguousarray(bag.features, dtype=np.float32)
    assert bag.coords is not None
    arrays = {"features": features, "coords": bag.coords}
    coords = {"coords": bag.coords}

    def tensor() -> bytes:
        stream = io.BytesIO()
        torch.save(torch.from_numpy(features), stream)
        return stream.getvalue()

    # CLAM trains on pt_files, so the tensor is written last: if it exists, the others do.
    done = [
        _place(out / "patches" / f"{slide}.h5", lambda: _hdf5(coords, tile), lambda path: _same_hdf5(path, coords, tile)),
        _place(out / "h5_files" / f"{slide}.h5", lambda: _hdf5(arrays, {}), lambda path: _same_hdf5(path, arrays, {})),
        _place(out / "pt_files" / f"{slide}.pt", tensor, lambda path: _same_tensor(path, features)),
    ]
    return any(done)


def _tile_attributes(slide: str, bag: Bag, source: Path) -> dict[str, Any]:
    """CLAM's attributes of ``coords``. Tiles are described at level 0, where their size is known for every slide."""
    if bag.coords is None or bag.settings.get("coords_unit", "px") != "px":
        raise BagError(f"{source}: no coordinates in level-0 pixels", "extract the slide with comel extract")
    geometry = bag.geometry
    size = geometry.patch_size_level0 if geometry else bag.settings.get("patch_size_level0")
    if size is None:
        raise BagError(f"{source}: the tile size in level-0 pixels is not stated", "extract the slide with comel extract")
    attributes: dict[str, Any] = {"patch_size": int(size), "patch_level": 0, "downsample": (1.0, 1.0), "name": slide}
    known = geometry.attributes() if geometry else bag.settings
    extent = tuple(known.get(name) for name in ("level0_width", "level0_height"))
    if None not in extent:
        attributes |= {"level_dim": extent, "downsampled_level_dim": extent}
    return attributes


def _write_tables(out: Path, cohort: Manifest, empty: set[str]) -> tuple[Path, ...]:
    from comel.cohort.splits import assign_splits

    split_of = assign_splits(cohort.rows)
    tables = []
    for task in cohort.tasks:
        rows = [row for row in cohort.select(task=task) if row.slide_id not in empty]
        dataset, splits = out / "dataset_csv" / f"{task}.csv", out / "splits" / task / "splits_0.csv"
        _place_text(dataset, _dataset_csv(rows))
        columns = [[row.slide_id for row in rows if split_of[row.slide_id] == split] for split in SPLITS]
        _place_text(splits, _csv([SPLITS, *zip_longest(*columns, fillvalue="")]))
        tables += [dataset, splits]
    return tuple(tables)


def _dataset_csv(rows: Sequence[ManifestRow]) -> str:
    return _csv([("case_id", "slide_id", "label"), *((row.patient, row.slide_id, row.label) for row in rows)])


def _check_names(manifest: Path, rows: Sequence[ManifestRow]) -> None:
    """Refuse names that ``pandas.read_csv``, with which CLAM reads its tables, does not return unchanged.

    A column of numbers loses leading zeros and cannot be compared with splits of unequal length; NA and null become empty.
    """
    import pandas

    read = pandas.read_csv(io.StringIO(_dataset_csv(rows)))
    for row, slide, label in zip(rows, read["slide_id"], read["label"], strict=True):
        if slide != row.slide_id or pandas.isna(label):
            what = f"slide_id {row.slide_id!r}" if slide != row.slide_id else f"label {row.label!r}"
            raise ManifestError(
                f"{manifest.name} row {row.row}: CLAM's table reader takes {what} for a number or a missing value",
                "give names with a letter in them, to the slide's bag too",
            )


def _csv(lines: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _place_text(path: Path, text: str) -> bool:
    content = text.encode()
    return _place(path, lambda: content, lambda there: there.read_bytes() == content)


def _place(path: Path, content: Callable[[], bytes], same: Callable[[Path], bool]) -> bool:
    """Write a file unless it exists; returns whether it was written.

    Raises:
        ConfigError: a file of that name holds something else.
    """
    if path.exists():
        if not same(path):
            raise ConfigError(f"{path}: exists already, with other content", "give another folder, or remove the file")
        return False
    with atomic_path(path) as temporary:
        temporary.write_bytes(content())
    return True


def _hdf5(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bytes:
    """An HDF5 file with these datasets and the attributes on ``coords``, made in memory: HDF5 does not survive a full disk."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file["coords"].attrs.update(attributes)
    return content.getvalue()


def _same_hdf5(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bool:
    try:
        with open_hdf5(path) as file:
            if set(file) != set(arrays):
                return False
            there = {name: read_dataset(file, name, path, MAX_BAG_BYTES) for name in arrays}
            said = dict(file["coords"].attrs)
    except BagError:
        return False
    return (
        all(np.array_equal(there[name], array) for name, array in arrays.items())
        and set(said) == set(attributes)
        and all(np.array_equal(said[name], value) for name, value in attributes.items())
    )


def _same_tensor(path: Path, features: np.ndarray) -> bool:
    try:
        there = read_any_bag(path).features
    except BagError:
        return False
    return there.dtype == features.dtype and np.array_equal(there, features)
