"""The bag: one slide's tile features, where the tiles lie, and how the features were made.

A bag is ``<slide_id>.h5`` with

``features`` (N, D)
    float16 or float32, one row a tile.
``coords`` (N, 2)
    int64, level-0 top-left pixels (x, y), rows in row-major grid order (y, then x).
``labels`` (N,)
    optional int8 instance labels: 1 positive, 0 negative, -1 unknown.
``quality/<name>`` (N,)
    optional per-tile measurements.

Attributes on ``coords`` carry the geometry (:class:`TileGeometry`), attributes on the file say what made the features
(:class:`FeatureContract`), the settings and their hash, and a checksum over the decoded arrays. The formats of other tools
are read by :mod:`comel.foreign`. Nothing in this module imports torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from comel.errors import BagError
from comel.files import atomic_path, canonical_json, sha256_of_arrays, sha256_of_json

__all__ = ["READING", "Bag", "FeatureContract", "TileGeometry", "read_bag", "read_bag_header", "reading_of", "write_bag"]

MAX_BAG_BYTES = 16 << 30
_CHUNK_ROWS = 1024

READING = ("tissue", "min_tissue", "overlap", "stain_normalisation", "stain_reference", "dtype")
"""Settings of an extraction that a model needs to read a new slide as those it was trained on were read."""


@dataclass(frozen=True)
class TileGeometry:
    """Where tiles lie on their slide.

    The micrometres per pixel are the truth; the magnifications and ``patch_size_level0`` are there because other tools
    look for them under these names.

    Attributes:
        patch_size: tile side in pixels at ``mpp_x``/``mpp_y``.
        mpp_x, mpp_y: micrometres per pixel of the tiles that were encoded.
        level0_mpp_x, level0_mpp_y: micrometres per pixel of the slide's level 0.
        level0_width, level0_height: level-0 size in pixels.
        overlap: pixels that neighbouring tiles share, at tile resolution.
        bounds_x, bounds_y: offset of the slide's non-empty region in level-0 pixels (``openslide.bounds-x/y``), else 0.
        has_bounds: whether the slide states all four ``openslide.bounds-*`` (QuPath crops only then).
        name: the slide's file name.
        interpolated: whether the slide was coarser than the target and its tiles were enlarged (by at most 10 %).
    """

    patch_size: int
    mpp_x: float
    mpp_y: float
    level0_mpp_x: float
    level0_mpp_y: float
    level0_width: int
    level0_height: int
    overlap: int = 0
    bounds_x: int = 0
    bounds_y: int = 0
    has_bounds: bool = False
    name: str = ""
    interpolated: bool = False

    @property
    def tile_width(self) -> float:
        """Tile width in level-0 pixels, not rounded."""
        return self.patch_size * self.mpp_x / self.level0_mpp_x

    @property
    def tile_height(self) -> float:
        """Tile height in level-0 pixels, not rounded."""
        return self.patch_size * self.mpp_y / self.level0_mpp_y

    @property
    def stride_x(self) -> float:
        """Horizontal distance of neighbouring tiles in level-0 pixels, not rounded."""
        return (self.patch_size - self.overlap) * self.mpp_x / self.level0_mpp_x

    @property
    def stride_y(self) -> float:
        """Vertical distance of neighbouring tiles in level-0 pixels, not rounded."""
        return (self.patch_size - self.overlap) * self.mpp_y / self.level0_mpp_y

    @property
    def patch_size_level0(self) -> int:
        """Tile width in level-0 pixels, rounded, for tools that want one integer."""
        return max(1, round(self.tile_width))

    def attributes(self) -> dict[str, Any]:
        """The attributes written on ``coords``."""
        return {
            **dataclasses.asdict(self),
            "patch_size_level0": self.patch_size_level0,
            "level0_magnification": 10.0 / self.level0_mpp_x,
            "target_magnification": 10.0 / self.mpp_x,
        }


@dataclass(frozen=True)
class FeatureContract:
    """How features were made; two bags may be mixed only where these agree.

    Attributes:
        encoder: the patch encoder's name, or None where the file does not say.
        weights_hash: SHA-256 of the encoder's weights, or None where the file does not say.
        dimension: length of a feature vector.
        mpp: micrometres per pixel of the tiles, or None where the file does not say.
        tile_size: tile side in pixels at ``mpp``, or None where the file does not say.
        reading: how slides were read, those of :data:`READING` that the file states.
    """

    encoder: str | None
    weights_hash: str | None
    dimension: int
    mpp: float | None
    tile_size: int | None
    reading: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, other: FeatureContract) -> str | None:
        """Say in words where ``other`` differs, or None where both fit.

        Names and dimensions must be equal. Hash, mpp, tile size and stain normalisation are compared only where both are
        known; mpp within 1 %. What else :attr:`reading` holds decides which tiles there are, not what their features mean.
        """
        if self.dimension != other.dimension:
            return f"features of dimension {other.dimension} instead of {self.dimension}"
        if self.encoder != other.encoder:
            return f"encoder {other.encoder or 'not stated'} instead of {self.encoder or 'not stated'}"
        if self.weights_hash and other.weights_hash and self.weights_hash != other.weights_hash:
            return f"other weights of {self.encoder} ({other.weights_hash[:12]} instead of {self.weights_hash[:12]})"
        if self.mpp and other.mpp and abs(other.mpp - self.mpp) > 0.01 * self.mpp:
            return f"tiles at {other.mpp:g} um/px instead of {self.mpp:g}"
        if self.tile_size and other.tile_size and self.tile_size != other.tile_size:
            return f"tiles of {other.tile_size} px instead of {self.tile_size}"
        own, others = (contract.reading.get("stain_normalisation") for contract in (self, other))
        if own and others and own != others:
            return f"stain normalisation {others} instead of {own}"
        if own and others and self.reading.get("stain_reference") != other.reading.get("stain_reference"):
            return "stains normalised to another reference"
        return None


def reading_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of :data:`READING` that an extraction's settings hold."""
    return {name: settings[name] for name in READING if name in settings}


@dataclass
class Bag:
    """The instances of one slide in memory.

    Attributes:
        slide_id: the slide's name in the manifest.
        features: (N, D) float32 or float16.
        coords: (N, 2) int64 level-0 top-left pixels (x, y), or None where the file has none.
        geometry: None where the file does not say enough to place a tile on its slide.
        contract: how the features were made.
        labels: (N,) int8, 1 positive, 0 negative, -1 unknown; None where there is no annotation.
        quality: per-tile measurements by name, each (N,).
        settings: what the extraction was told.
    """

    slide_id: str
    features: np.ndarray
    coords: np.ndarray | None
    geometry: TileGeometry | None
    contract: FeatureContract
    labels: np.ndarray | None = None
    quality: dict[str, np.ndarray] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays as they are named in the file."""
        named = {"features": self.features, "coords": self.coords, "labels": self.labels}
        named |= {f"quality/{name}": values for name, values in self.quality.items()}
        return {name: array for name, array in named.items() if array is not None}


def write_bag(path: Path, bag: Bag) -> None:
    """Write a bag under a temporary name, read it back, and rename it to ``path``.

    Raises:
        BagError: the bag's arrays do not fit each other or hold NaN or infinity; or what was written does not read back.
        OSError: the disk is full or not writable; nothing is left under ``path``.
    """
    import io

    import h5py

    if bag.coords is None or bag.geometry is None:
        raise BagError(f"{bag.slide_id}: a bag is written with coords and geometry", "give both")
    arrays = bag.arrays()
    check_arrays(bag.slide_id, arrays, bag.contract.dimension)
    checksum = sha256_of_arrays(arrays)
    # HDF5 that runs out of disk keeps its file open and takes the process down later: it writes to memory, Python to disk.
    content = io.BytesIO()
    with atomic_path(path) as temporary:
        with h5py.File(content, "w") as file:
            for name, array in arrays.items():
                chunks = (min(_CHUNK_ROWS, len(array)), *array.shape[1:]) if len(array) else None
                file.create_dataset(name, data=array, chunks=chunks)
            file["coords"].attrs.update(bag.geometry.attributes())
            file.attrs.update(
                slide_id=bag.slide_id,
                encoder=bag.contract.encoder or "",
                encoder_weights_hash=bag.contract.weights_hash or "",
                comel_version=metadata.version("comel"),
                settings=canonical_json(bag.settings),
                settings_hash=sha256_of_json(bag.settings),
                checksum=checksum,
            )
        temporary.write_bytes(content.getbuffer())
        content.close()
        written = read_bag(temporary, verify=True)
        if len(written) != len(bag):
            raise BagError(f"{path}: {len(written)} rows read back of {len(bag)} written", "check the disk and run again")


def read_bag(path: Path, *, verify: bool = False, max_bytes: int = MAX_BAG_BYTES) -> Bag:
    """Read a bag of this project's own format; :func:`comel.foreign.read_any_bag` reads other tools' files too.

    Args:
        path: the HDF5 file.
        verify: compare the checksum over the decoded arrays.
        max_bytes: refuse arrays that would take more memory than this, before any is taken.

    Raises:
        BagError: the file is missing, truncated, not HDF5, holds links or shapes that a bag does not have, NaN features, or
            does not match its checksum.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        if "features" not in file or "coords" not in file:
            raise BagError(f"{path}: no datasets 'features' and 'coords'", "extract the slide again, or convert the file")
        arrays = {name: read_dataset(file, name, path, max_bytes) for name in ("features", "coords", "labels") if name in file}
        if "quality" in file:
            group = file["quality"]
            names = [f"quality/{name}" for name in group] if hasattr(group, "keys") else []
            arrays |= {name: read_dataset(file, name, path, max_bytes) for name in names}
        coords_attributes = {key: plain(value) for key, value in file["coords"].attrs.items()}
        file_attributes = {key: plain(value) for key, value in file.attrs.items()}
        geometry = geometry_from_attributes(coords_attributes)
    slide_id = str(file_attributes.get("slide_id") or path.stem)
    settings = _settings(file_attributes.get("settings"), path)
    dimension = arrays["features"].shape[1] if arrays["features"].ndim == 2 else 0
    check_arrays(f"{path}", arrays, dimension)
    if verify and file_attributes.get("checksum") != sha256_of_arrays(arrays):
        raise BagError(f"{path}: the content does not match its checksum", "extract the slide again")
    return Bag(
        slide_id=slide_id,
        features=arrays["features"],
        coords=arrays["coords"].astype(np.int64, copy=False),
        geometry=geometry,
        contract=FeatureContract(
            encoder=str(file_attributes.get("encoder") or "") or None,
            weights_hash=str(file_attributes.get("encoder_weights_hash") or "") or None,
            dimension=dimension,
            mpp=geometry.mpp_x if geometry else None,
            tile_size=geometry.patch_size if geometry else None,
            reading=reading_of(settings),
        ),
        labels=arrays.get("labels"),
        quality={name.removeprefix("quality/"): array for name, array in arrays.items() if name.startswith("quality/")},
        settings=settings,
    )


def read_bag_header(path: Path) -> dict[str, Any]:
    """The file's attributes and the number and dimension of its instances, without reading the features.

    Raises:
        BagError: as :func:`read_bag`.
    """
    with open_hdf5(Path(path)) as file:
        if "features" not in file:
            raise BagError(f"{path}: no dataset 'features'", "extract the slide again")
        header = {key: plain(value) for key, value in file.attrs.items()}
        shape = getattr(file["features"], "shape", None)
        if shape is None or len(shape) != 2:
            raise BagError(f"{path}: 'features' is not a table", "extract the slide again")
        header["instances"], header["dimension"] = int(shape[0]), int(shape[1])
    return header


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, with every failure of the library as one :class:`BagError`."""
    import h5py

    if not path.is_file():
        raise BagError(f"{path}: no such file", "check the path, or extract the slide first")
    if path.stat().st_size == 0:
        raise BagError(f"{path}: the file is empty", "extract the slide again")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BagError(f"{path}: truncated or not HDF5 ({_first_line(error)})", "extract the slide again") from None
    try:
        yield file
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BagError(f"{path}: cannot be read ({_first_line(error)})", "extract the slide again") from error
    finally:
        file.close()


def read_dataset(file: Any, name: str, path: Path, max_bytes: int) -> np.ndarray:
    """Read one dataset after looking at its link, its storage and its size.

    Soft, external and virtual links, and filters other than gzip, lzf and shuffle, are refused: a bag never needs them, and
    a hostile file does.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise BagError(f"{path}: '{name}' is a link", "give a file that holds its own data")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise BagError(f"{path}: '{name}' does not hold its own data", "give a file that holds its own data")
    if dataset.dtype.kind not in "fiub":
        raise BagError(f"{path}: '{name}' holds {dataset.dtype}, not numbers", "extract the slide again")
    plain_filters = {"1", "2", "3", "32000"}
    if not set(getattr(dataset, "_filters", {})) <= plain_filters | {"gzip", "lzf", "shuffle", "fletcher32"}:
        raise BagError(f"{path}: '{name}' uses a filter that is not accepted", "store it plain or with gzip")
    declared = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if declared > max_bytes:
        raise BagError(f"{path}: '{name}' declares {declared / 2**30:.1f} GiB", f"at most {max_bytes / 2**30:.1f} GiB is read")
    stored = dataset.id.get_storage_size()
    if declared > max(1 << 20, stored * 1000):
        raise BagError(f"{path}: '{name}' declares {declared} bytes but stores {stored}", "extract the slide again")
    return np.asarray(dataset[()])


def geometry_from_attributes(attributes: Mapping[str, Any]) -> TileGeometry | None:
    """The geometry that ``coords`` carries, or None where the micrometres per pixel are missing.

    Magnifications are never used: they are rounded to 40, 20 and 10 in many files.
    """
    names = {field.name: field for field in dataclasses.fields(TileGeometry)}
    required = [name for name, entry in names.items() if entry.default is dataclasses.MISSING]
    if any(name not in attributes for name in required):
        return None
    types = {"int": int, "float": float, "bool": bool, "str": str}
    geometry = TileGeometry(**{name: types[str(names[name].type)](attributes[name]) for name in names if name in attributes})
    sizes = (geometry.patch_size, geometry.mpp_x, geometry.mpp_y, geometry.level0_mpp_x, geometry.level0_mpp_y)
    if not all(np.isfinite(size) and size > 0 for size in sizes) or not 0 <= geometry.overlap < geometry.patch_size:
        raise BagError(f"{geometry.name or 'bag'}: tile size, overlap or mpp on 'coords' is absurd", "extract the slide again")
    return geometry


def check_arrays(where: str, arrays: Mapping[str, np.ndarray], dimension: int) -> None:
    features, coords = arrays["features"], arrays.get("coords")
    if features.ndim != 2 or features.dtype.kind != "f" or features.shape[1] != dimension or dimension == 0:
        raise BagError(f"{where}: features have shape {features.shape} and type {features.dtype}", "expected (N, D) floats")
    if coords is not None and (coords.shape != (len(features), 2) or coords.dtype.kind not in "iu"):
        raise BagError(f"{where}: {len(features)} features but coords of shape {coords.shape}", "extract the slide again")
    for name, array in arrays.items():
        if name.startswith(("labels", "quality/")) and array.shape != (len(features),):
            raise BagError(f"{where}: {len(features)} features but {name} of shape {array.shape}", "extract the slide again")
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise BagError(f"{where}: {bad} of {len(features)} instances have NaN or infinite features", "extract the slide again")


def _settings(text: Any, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except (TypeError, ValueError, RecursionError):
        raise BagError(f"{path}: the settings attribute is not JSON", "extract the slide again") from None
    return value if isinstance(value, dict) else {}


def plain(value: Any) -> Any:
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
