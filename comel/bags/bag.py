"""The bag: one slide's tile features, where the tiles lie, and how the features were made.

A bag is ``<slide_id>.h5`` with

``features`` (N, D)
    float16 or float32, one row per tile.
``coords`` (N, 2)
    int64, level-0 top-left pixels (x, y), rows in row-major grid order (y, then x).
``labels`` (N,)
    optional int8 instance labels: 1 positive, 0 negative, -1 unknown.
``quality/<name>`` (N,)
    optional per-tile measurements.
``scales/<mpp>/...``
    optional coarser scales of the same slide, each with the arrays above.
``parent`` (N,)
    int64, only with a coarser scale: for each tile, the row of the tile in the next coarser scale that contains it.

Attributes on ``coords`` carry the geometry (:class:`TileGeometry`), attributes on the file say what made the features
(:class:`FeatureContract`), the settings and their hash, and a checksum over the decoded arrays. The formats of other tools
are read by :mod:`comel.bags.foreign`. Nothing in this module imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.contract import FeatureContract, extraction_of
from comel.bags.geometry import TileGeometry, geometry_from_attributes
from comel.base.files import atomic_path, canonical_json, parse_json, sha256_of_arrays, sha256_of_json
from comel.base.formats import check_format
from comel.base.hdf5 import group_names, holds, open_hdf5, read_attributes, read_dataset
from comel.base.text import is_text
from comel.base.version import comel_version
from comel.errors import BagError

__all__ = [
    "Bag",
    "TileGeometry",
    "check_bag",
    "read_bag",
    "read_bag_header",
    "write_bag",
]

FORMAT = 1
"""The attribute ``format`` of a bag's file; a file without it has format 1."""
MAX_BAG_BYTES = 16 << 30
LARGEST_FEATURE = 1e6
"""Far above any encoder's output and far below what would overflow a model's sums; uninitialised memory exceeds it."""
LARGEST_COORDINATE = 2**40
_MAX_NAME_BYTES = 255
_CHUNK_ROWS = 1024
_MAX_SCALES = 8


@dataclass
class Bag:
    """The instances of one slide in memory.

    Attributes:
        slide_id: the slide's name in the manifest.
        features: (N, D) float32 or float16.
        coords: (N, 2) int64 level-0 top-left pixels (x, y), or None if the file has none.
        geometry: None if the file does not state enough to place a tile on its slide.
        contract: how the features were made.
        labels: (N,) int8, 1 positive, 0 negative, -1 unknown; None without an annotation.
        quality: per-tile measurements by name, each (N,).
        settings: the settings of the extraction.
        parent: (N,) int64, the row of the tile of ``scales[0]`` that contains each tile; None without a coarser scale.
        scales: the coarser scales of the slide as bags of their own, finest first. Each one's ``parent`` leads to the next.
        notes: what a user should know about the slide, one line each; not part of the content.
    """

    slide_id: str
    features: np.ndarray
    coords: np.ndarray | None
    geometry: TileGeometry | None
    contract: FeatureContract
    labels: np.ndarray | None = None
    quality: dict[str, np.ndarray] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    parent: np.ndarray | None = None
    scales: tuple[Bag, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names in the file, including those of coarser scales."""
        named = {"features": self.features, "coords": self.coords, "labels": self.labels, "parent": self.parent}
        named |= {f"quality/{name}": values for name, values in self.quality.items()}
        for scale in self.scales:
            named |= {f"{scale_group(scale)}{name}": array for name, array in scale.arrays().items()}
        return {name: array for name, array in named.items() if array is not None}


def scale_group(scale: Bag) -> str:
    """The group of a coarser scale in its file, such as ``scales/2/``.

    Raises:
        BagError: the scale does not state its micrometres per pixel.
    """
    if scale.geometry is None:
        raise BagError(f"{scale.slide_id}: a coarser scale has no geometry to write", "give it")
    return f"scales/{scale.geometry.mpp_x:g}/"


def write_bag(path: Path, bag: Bag) -> None:
    """Write a bag under a temporary name, read it back, and rename it to ``path``.

    Raises:
        BagError: the bag's arrays do not match each other or hold NaN or infinity; or the file does not read back as written.
        OSError: the disk is full or not writable; nothing is left under ``path``.
    """
    import io

    import h5py

    if bag.coords is None or bag.geometry is None:
        raise BagError(f"{bag.slide_id}: no coords or no geometry to write", "give both")
    check_bag(bag.slide_id, bag)
    arrays = bag.arrays()
    checksum = sha256_of_arrays(arrays)
    # HDF5 keeps its file open after a full disk and crashes the process later: so HDF5 writes to memory, Python to disk.
    content = io.BytesIO()
    with atomic_path(path) as temporary:
        with h5py.File(content, "w") as file:
            for name, array in arrays.items():
                chunks = (min(_CHUNK_ROWS, len(array)), *array.shape[1:]) if len(array) else None
                file.create_dataset(name, data=array, chunks=chunks)
            file["coords"].attrs.update(bag.geometry.attributes())
            for scale in bag.scales:
                if scale.geometry is not None:
                    file[f"{scale_group(scale)}coords"].attrs.update(scale.geometry.attributes())
            file.attrs.update(
                slide_id=bag.slide_id,
                encoder=bag.contract.encoder or "",
                encoder_weights_hash=bag.contract.weights_hash or "",
                comel_version=comel_version(),
                format=FORMAT,
                settings=canonical_json(bag.settings),
                settings_hash=sha256_of_json(bag.settings),
                checksum=checksum,
                notes=canonical_json(list(bag.notes)),
            )
            if bag.contract.code_sha256:
                file.attrs["encoder_code_sha256"] = bag.contract.code_sha256
            if bag.contract.joined_mpp:
                file.attrs["joined_mpp"] = bag.contract.joined_mpp
        temporary.write_bytes(content.getbuffer())
        content.close()
        written = read_bag(temporary, verify=True)
        if len(written) != len(bag):
            raise BagError(f"{path}: {len(written)} rows read back of {len(bag)} written", "check the disk and run again")


def read_bag(path: Path, *, verify: bool = False, max_bytes: int = MAX_BAG_BYTES) -> Bag:
    """Read a bag of this project's own format; :func:`comel.bags.foreign.read_any_bag` reads other tools' files too.

    Args:
        path: the HDF5 file.
        verify: check the checksum over the decoded arrays.
        max_bytes: refuse arrays that would take more memory than this, before allocating any.

    Raises:
        BagError: the file is missing, truncated, not HDF5, holds links or shapes that a bag does not have, NaN features, or
            does not match its checksum.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        about = read_attributes(file, path)
        check_format(path, about.get("format", 1), FORMAT, about.get("comel_version"), BagError)
        if not (holds(file, "features", path) and holds(file, "coords", path)):
            raise BagError(f"{path}: no datasets 'features' and 'coords'", "extract the slide again, or convert the file")
        coarser = group_names(file, "scales", path)
        if len(coarser) > _MAX_SCALES:
            raise BagError(f"{path}: {len(coarser)} scales", f"at most {_MAX_SCALES} are read")
        levels = [_read_level(file, prefix, path, max_bytes) for prefix in ("", *(f"scales/{name}/" for name in coarser))]
    arrays = {f"{level.prefix}{name}": array for level in levels for name, array in level.arrays.items()}
    if verify and about.get("checksum") != sha256_of_arrays(arrays):
        raise BagError(f"{path}: the content does not match its checksum", "extract the slide again")
    bag, *scales = [_bag_of_level(level, about, path) for level in levels]
    bag.scales = tuple(sorted(scales, key=lambda scale: scale.geometry.mpp_x if scale.geometry else 0.0))
    bag.notes = _notes(about.get("notes"), path)
    check_bag(str(path), bag)
    return bag


@dataclass(frozen=True)
class _Level:
    """One scale of a file: its prefix, its arrays by name, and the attributes of its coords."""

    prefix: str
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]


def _read_level(file: Any, prefix: str, path: Path, max_bytes: int) -> _Level:
    inside = group_names(file, prefix.rstrip("/"), path)
    if not {"features", "coords"} <= set(inside):
        raise BagError(f"{path}: no datasets '{prefix}features' and '{prefix}coords'", "extract the slide again")
    names = [name for name in inside if name in ("features", "coords", "labels", "parent")]
    names += [f"quality/{name}" for name in group_names(file, f"{prefix}quality", path)]
    arrays = {name: read_dataset(file, f"{prefix}{name}", path, max_bytes) for name in names}
    coords = arrays["coords"]
    if coords.dtype.kind not in "iu" or (coords.size and max(-int(coords.min()), int(coords.max())) > LARGEST_COORDINATE):
        raise BagError(f"{path}: '{prefix}coords' are not level-0 pixels of a slide", "extract the slide again")
    return _Level(prefix, arrays, read_attributes(file[f"{prefix}coords"], path))


def _bag_of_level(level: _Level, about: Mapping[str, Any], path: Path) -> Bag:
    features, geometry = level.arrays["features"], geometry_from_attributes(level.about, path)
    settings = _settings(about.get("settings"), path)
    return Bag(
        slide_id=_slide_id(about.get("slide_id") or path.stem, path),
        features=features,
        coords=level.arrays["coords"].astype(np.int64, copy=False),
        geometry=geometry,
        contract=FeatureContract(
            encoder=str(about.get("encoder") or "") or None,
            weights_hash=str(about.get("encoder_weights_hash") or "") or None,
            dimension=features.shape[1] if features.ndim == 2 else 0,
            mpp=geometry.mpp_x if geometry else None,
            tile_size=geometry.patch_size if geometry else None,
            reading=extraction_of(settings),
            joined_mpp=_joined_mpp(about.get("joined_mpp"), path),
            code_sha256=_sha256(about.get("encoder_code_sha256")),
        ),
        labels=level.arrays.get("labels"),
        quality={name.removeprefix("quality/"): array for name, array in level.arrays.items() if name.startswith("quality/")},
        settings=settings,
        parent=level.arrays.get("parent"),
    )


def read_bag_header(path: Path) -> dict[str, Any]:
    """The file's attributes and the number and dimension of its instances, without reading the features.

    Raises:
        BagError: see :func:`read_bag`.
    """
    with open_hdf5(Path(path)) as file:
        header = read_attributes(file, path)
        check_format(path, header.get("format", 1), FORMAT, header.get("comel_version"), BagError)
        if not holds(file, "features", path):
            raise BagError(f"{path}: no dataset 'features'", "extract the slide again")
        shape = getattr(file["features"], "shape", None)
        if shape is None or len(shape) != 2:
            raise BagError(f"{path}: 'features' is not a table", "extract the slide again")
        header["instances"], header["dimension"] = int(shape[0]), int(shape[1])
    return header


def check_bag(where: str, bag: Bag) -> None:
    """Check that the arrays of a bag and its coarser scales match, and that no feature is NaN, infinite or absurdly large.

    Raises:
        BagError: the check fails; the message begins with ``where``.
    """
    levels = [bag, *bag.scales]
    for index, level in enumerate(levels):
        _check_level(where if index == 0 else f"{where}: scale {index}", level)
        if index and (level.geometry is None or level.scales or level.contract.dimension != bag.contract.dimension):
            raise BagError(f"{where}: scale {index} differs in kind from its bag", "extract the slide again")
    mpps = [level.geometry.mpp_x for level in levels if level.geometry is not None]
    if bag.scales and (len(mpps) < len(levels) or any(np.diff(mpps) <= 0)):
        raise BagError(f"{where}: scales of {mpps} um/px are not ordered from fine to coarse", "extract the slide again")
    for finer, coarser in zip(levels, [*levels[1:], None], strict=True):
        _check_parent(where, finer, coarser)


def _check_level(where: str, bag: Bag) -> None:
    features, dimension = bag.features, bag.contract.dimension
    if not all(text is None or is_text(text) for text in (bag.contract.encoder, bag.contract.weights_hash)):
        raise BagError(f"{where}: the encoder's name contains control characters", "extract the slide again")
    if features.ndim != 2 or features.dtype.kind != "f" or features.shape[1] != dimension or dimension == 0:
        raise BagError(f"{where}: features have shape {features.shape} and type {features.dtype}", "expected (N, D) floats")
    rows = len(features)
    if bag.coords is not None and (bag.coords.shape != (rows, 2) or bag.coords.dtype.kind not in "iu"):
        raise BagError(f"{where}: {rows} features but coords of shape {bag.coords.shape}", "extract the slide again")
    by_tile = {"labels": bag.labels, **{f"quality/{name}": values for name, values in bag.quality.items()}}
    for name, array in by_tile.items():
        if array is not None and array.shape != (rows,):
            raise BagError(f"{where}: {rows} features but {name} of shape {array.shape}", "extract the slide again")
    if not rows or max(-float(features.min()), float(features.max())) <= LARGEST_FEATURE:
        return  # NaN compares false both ways, so it does not stop here
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise BagError(f"{where}: {bad} of {rows} instances have NaN or infinite features", "extract the slide again")
    absurd = int((np.abs(features).max(axis=1) > LARGEST_FEATURE).sum())
    raise BagError(f"{where}: {absurd} of {rows} instances have features beyond {LARGEST_FEATURE:g}", "extract the slide again")


def _check_parent(where: str, finer: Bag, coarser: Bag | None) -> None:
    parent = finer.parent
    if parent is None and coarser is None:
        return
    fits = (
        parent is not None
        and coarser is not None
        and parent.shape == (len(finer),)
        and parent.dtype.kind in "iu"
        and (not len(parent) or 0 <= parent.min() <= parent.max() < len(coarser))
    )
    if not fits:
        raise BagError(f"{where}: 'parent' does not lead from each tile to one of the next coarser scale", "extract it again")


def _slide_id(value: Any, path: Path) -> str:
    """The slide's name; files are named after it."""
    name = str(value)
    if not is_text(name) or len(name.encode()) > _MAX_NAME_BYTES or Path(name).name != name or name.startswith("."):
        raise BagError(f"{path}: the attribute slide_id is not a valid slide name", "extract the slide again")
    return name


def _joined_mpp(value: Any, path: Path) -> tuple[float, ...]:
    try:
        scales = tuple(map(float, np.ravel([] if value is None else value)))
    except (TypeError, ValueError):
        scales = (0.0,)
    if len(scales) > _MAX_SCALES or not all(np.isfinite(mpp) and mpp > 0 for mpp in scales):
        raise BagError(f"{path}: the attribute joined_mpp is absurd", "join the scales again")
    return scales


def _sha256(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else None


def _notes(text: Any, path: Path) -> tuple[str, ...]:
    try:
        value = parse_json(text) if text else []
    except (TypeError, ValueError):
        raise BagError(f"{path}: the notes attribute is not JSON", "extract the slide again") from None
    return tuple(str(note) for note in value) if isinstance(value, list) else ()


def _settings(text: Any, path: Path) -> dict[str, Any]:
    try:
        value = parse_json(text) if text else {}
    except (TypeError, ValueError):
        raise BagError(f"{path}: the settings attribute is not JSON", "extract the slide again") from None
    return value if isinstance(value, dict) else {}
