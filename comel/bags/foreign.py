"""Feature files of other tools, read without conversion.

=========  =============================================  =================================================================
tool       where                                          what
=========  =============================================  =================================================================
TRIDENT    ``features_<encoder>/<id>.h5``                 ``features``, ``coords`` (level-0 pixels) with attributes
CLAM       ``h5_files/<id>.h5``, ``patches/<id>.h5``      ``features``, ``coords`` (level-0 pixels); the tile's size beside it
CLAM       ``pt_files/<id>.pt``                           a tensor (N, D)
STAMP      ``<id>.h5``                                    ``feats``, ``coords`` in micrometres, attributes on the file
=========  =============================================  =================================================================

None of them states the micrometres per pixel of level 0, and TRIDENT's magnifications are rounded, so such a bag has no
:class:`~comel.bags.bag.TileGeometry`. What a map needs is in ``settings``: ``patch_size_level0`` (tile side in level-0 pixels),
or ``coords_unit: um`` with ``tile_size_um`` if coordinates are in micrometres.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.bag import LARGEST_COORDINATE, MAX_BAG_BYTES, Bag, check_bag, read_bag
from comel.bags.contract import FeatureContract
from comel.bags.geometry import geometry_from_attributes
from comel.base.hdf5 import check_file, group_names, holds, open_hdf5, read_attributes, read_dataset
from comel.base.names import existing
from comel.errors import BagError, MissingBag

__all__ = ["bag_path", "feature_files", "instance_count", "read_any_bag"]

_KEPT = ("patch_size", "patch_size_level0", "overlap", "level0_width", "level0_height")
_LAYOUTS = (("*.h5", "*.pt"), ("h5_files/*.h5",), ("pt_files/*.pt",))
_ENCODER_FOLDERS = ("features_*", "*/features_*")


def feature_files(paths: Sequence[Path] | Path | str) -> list[Path]:
    """The given feature files, and the feature files in folders of this project's, TRIDENT's, CLAM's or STAMP's layout.

    In a folder, the first layout with a file is used: the folder itself, ``h5_files``, ``pt_files``, ``features_*``.

    Raises:
        BagError: there is no feature file, or a folder has features of several encoders or resolutions.
    """
    paths = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = ([file for pattern in layout for file in path.glob(pattern)] for layout in _LAYOUTS)
        shown = ([file for file in found if not file.name.startswith(".")] for found in inside)
        files += sorted(next((found for found in shown if found), []) or _features_of_one_encoder(path))
    if not files:
        raise BagError(f"{', '.join(map(str, paths))}: no feature file", "give .h5 or .pt files or a folder of them")
    return files


def _features_of_one_encoder(folder: Path) -> list[Path]:
    encoder = _encoder_folder(folder)
    return [] if encoder is None else [file for file in encoder.glob("*.h5") if not file.name.startswith(".")]


def _encoder_folder(folder: Path) -> Path | None:
    """The folder of TRIDENT's features under a job folder or a folder of jobs; None if none has a file.

    Raises:
        BagError: there are several.
    """
    filled = sorted(encoder for pattern in _ENCODER_FOLDERS for encoder in folder.glob(pattern) if _has_features(encoder))
    if len(filled) > 1:
        names = ", ".join(str(encoder.relative_to(folder)) for encoder in filled)
        raise BagError(f"{folder}: features of several encoders or resolutions, {names}", "give one of these folders")
    return filled[0] if filled else None


def _has_features(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as files:  # up to the first file only: this runs for every slide
        return any(file.name.endswith(".h5") and not file.name.startswith(".") for file in files)


def bag_path(folder: Path, slide_id: str) -> Path:
    """Find a slide's features in a folder of this project's, TRIDENT's, CLAM's or STAMP's layout.

    The file's name may be in another Unicode form than the slide's (:func:`comel.base.names.existing`).

    Raises:
        MissingBag: there is no such file; the message lists the paths that were tried.
        BagError: the folder has features of several encoders, for this slide or others: a cohort's features come from
            of one.
    """
    folder = Path(folder)
    if slide_id in ("", ".", "..") or "/" in slide_id or "\\" in slide_id or "\0" in slide_id:
        raise BagError(f"{slide_id!r} is not a valid slide name", "give the slide_id of the manifest")
    places = [f"{slide_id}.h5", f"h5_files/{slide_id}.h5", f"pt_files/{slide_id}.pt", f"{slide_id}.pt"]
    for place in places:
        if (path := existing(folder / place)).is_file():
            return path
    encoder = _encoder_folder(folder)
    if encoder is None or not (path := existing(encoder / f"{slide_id}.h5")).is_file():
        looked = ", ".join([*places, f"features_*/{slide_id}.h5"])
        raise MissingBag(f"{folder}: no features of slide {slide_id} (looked for {looked})", "extract the slide first")
    return path


def instance_count(path: Path) -> int | None:
    """The number of instances in a feature file, from its header alone; None if only the whole file tells.

    Raises:
        BagError: the file is missing or damaged.
    """
    if path.suffix in (".pt", ".pth"):
        return None
    with open_hdf5(path) as file:
        name = "features" if holds(file, "features", path) else "feats"
        if not holds(file, name, path):
            return None  # reading the file will fail with an error
        shape = getattr(file[name], "shape", None)
        return int(shape[0]) if shape is not None and len(shape) == 2 else None


def read_any_bag(path: Path, *, assume_encoder: str | None = None, verify: bool = False) -> Bag:
    """Read a bag of this project or of TRIDENT, CLAM or STAMP.

    Args:
        path: the ``.h5`` or ``.pt`` file.
        assume_encoder: the encoder's name if the file does not state it (CLAM's and TRIDENT's do not).
        verify: check the checksum, which only this project's files carry.

    Returns:
        The bag; ``settings["format"]`` is ``trident``, ``clam``, ``stamp`` or ``pt`` if another tool wrote it. ``coords``
        are level-0 pixels unless ``settings["coords_unit"]`` says otherwise; None for a ``.pt``.

    Raises:
        BagError: the file is missing, damaged or hostile (links, pickled objects, absurd sizes), or has no known layout.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth"):
        return _read_torch(path, assume_encoder)
    with open_hdf5(path) as file:
        attributes = read_attributes(file, path)
        if "comel_version" not in attributes:
            if holds(file, "feats", path):
                return _read_stamp(file, path, attributes, assume_encoder)
            if holds(file, "features", path):
                return _read_pixels(file, path, attributes, assume_encoder)
            found = ", ".join(group_names(file, "", path))[:200]
            raise BagError(f"{path}: no dataset 'features' or 'feats' (found: {found})", "give a feature file")
    bag = read_bag(path, verify=verify)
    if bag.contract.encoder is None:
        bag.contract = replace(bag.contract, encoder=assume_encoder)
    return bag


def _read_pixels(file: Any, path: Path, attributes: Mapping[str, Any], assume_encoder: str | None) -> Bag:
    """TRIDENT's and CLAM's layout: ``features``, and ``coords`` in level-0 pixels."""
    features = _features(read_dataset(file, "features", path, MAX_BAG_BYTES))
    coords, about = None, {}
    if holds(file, "coords", path):
        coords = _whole(read_dataset(file, "coords", path, MAX_BAG_BYTES), path)
        about = read_attributes(file["coords"], path)
    settings: dict[str, Any] = {"format": "trident" if "patch_size_level0" in about else "clam"}
    # TRIDENT writes this word for an unknown value.
    settings |= {name: _size(about[name], name, path) for name in _KEPT if about.get(name, "None") != "None"}
    geometry = geometry_from_attributes(about, path)
    if settings["format"] == "clam" and path.parent.name == "h5_files":
        settings |= _clam_tile(path)
    encoder = attributes.get("encoder") or read_attributes(file["features"], path).get("encoder") or assume_encoder
    tile_size = settings.get("patch_size") if settings["format"] == "trident" else None
    contract = FeatureContract(
        encoder=str(encoder) if encoder else None,
        weights_hash=None,
        dimension=_dimension(features),
        mpp=geometry.mpp_x if geometry else None,
        tile_size=int(tile_size) if tile_size else None,
    )
    return _checked(Bag(path.stem, features, coords, geometry, contract, settings=settings), path)


def _clam_tile(path: Path) -> dict[str, Any]:
    """The tile's size in level-0 pixels from ``patches/<id>.h5``, in the features' folder or the one above."""
    for folder in (path.parent.parent, path.parent.parent.parent):
        patches = folder / "patches" / path.name
        if not patches.is_file():
            continue
        with open_hdf5(patches) as file:
            about = read_attributes(file["coords"], patches) if holds(file, "coords", patches) else {}
        if "patch_size" not in about:
            break
        downsample = _size(about.get("downsample", 1.0), "downsample", patches)
        return {"patch_size_level0": max(1, round(_size(about["patch_size"], "patch_size", patches) * downsample))}
    return {}


def _read_stamp(file: Any, path: Path, attributes: Mapping[str, Any], assume_encoder: str | None) -> Bag:
    """STAMP's layout: the coordinates are rounded micrometres, because the slide's own mpp is not in the file."""
    features = _features(read_dataset(file, "feats", path, MAX_BAG_BYTES))
    coords = _whole(read_dataset(file, "coords", path, MAX_BAG_BYTES), path) if holds(file, "coords", path) else None
    # Before its attribute was called tile_size_um, STAMP wrote tile_size, in micrometres as well.
    stated = {"um": attributes.get("tile_size_um", attributes.get("tile_size")), "px": attributes.get("tile_size_px")}
    tile = {unit: _size(value, f"tile_size_{unit}", path) for unit, value in stated.items() if value is not None}
    in_micrometres = attributes.get("unit") == "um" or "um" in tile
    settings: dict[str, Any] = {"format": "stamp", "coords_unit": "um" if in_micrometres else "unknown"}
    settings |= {f"tile_size_{unit}": size for unit, size in tile.items()}
    encoder = attributes.get("extractor") or assume_encoder
    contract = FeatureContract(
        encoder=str(encoder) if encoder else None,
        weights_hash=None,
        dimension=_dimension(features),
        mpp=tile["um"] / tile["px"] if len(tile) == 2 else None,
        tile_size=round(tile["px"]) if "px" in tile else None,
    )
    return _checked(Bag(path.stem, features, coords, None, contract, settings=settings), path)


def _read_torch(path: Path, assume_encoder: str | None) -> Bag:
    """A tensor (N, D) or a dictionary of tensors ``features`` and ``coords``; nothing else is unpickled."""
    import torch

    check_file(path)
    try:
        open(path, "rb").close()
    except OSError as error:
        raise BagError(f"{path}: cannot be read ({error.strerror})", "check its permissions and those of its folder") from None
    _check_archive(path)
    try:
        # A file written by torch before 1.6 is not a zip archive and cannot be mapped.
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        remedy = "save the features as one tensor with torch.save"
        raise BagError(f"{path}: damaged, or holds more than tensors ({type(error).__name__})", remedy) from None
    named = value if isinstance(value, dict) else {"features": value}
    features = _features(_array(named.get("features", named.get("feats")), path))
    coords = _whole(_array(named["coords"], path), path) if "coords" in named else None
    contract = FeatureContract(assume_encoder, None, _dimension(features), None, None)
    return _checked(Bag(path.stem, features, coords, None, contract, settings={"format": "pt"}), path)


def _check_archive(path: Path) -> None:
    """Refuse archives that expand when read: torch stores tensors uncompressed."""
    if path.stat().st_size > MAX_BAG_BYTES:
        raise BagError(f"{path}: {path.stat().st_size >> 30} GiB", f"at most {MAX_BAG_BYTES >> 30} GiB is read")
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise BagError(f"{path}: damaged", "copy the file again") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise BagError(f"{path}: compressed", "save the features as one tensor with torch.save")


def _array(value: Any, path: Path) -> np.ndarray:
    """A dense CPU tensor as a new array; views that declare more values than they store are refused."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise BagError(f"{path}: does not hold a plain tensor of features", "save the features as one tensor with torch.save")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise BagError(
            f"{path}: declares {value.numel()} values but stores fewer", "save the features as one contiguous tensor"
        )
    value = value.detach()
    if value.dtype == torch.bfloat16:
        value = value.float()
    if value.is_complex() or value.dtype == torch.bool:
        raise BagError(f"{path}: holds {value.dtype}, not numbers", "save the features as floats")
    return np.array(value.numpy())


def _rows(array: np.ndarray) -> np.ndarray:
    """A table without the batch axis of length 1 that some tools keep."""
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array


def _features(array: np.ndarray) -> np.ndarray:
    rows = _rows(array)
    return rows.astype(np.float32) if rows.dtype == np.float64 else rows


def _dimension(features: np.ndarray) -> int:
    return features.shape[1] if features.ndim == 2 else 0


def _whole(array: np.ndarray, path: Path) -> np.ndarray:
    """Coordinates as int64, rounded if the tool wrote floats."""
    coords = _rows(array)
    if not np.isfinite(coords).all() or (np.abs(coords.astype(np.float64)) > LARGEST_COORDINATE).any():
        raise BagError(f"{path}: coords lie outside any slide", "extract the slide again")
    whole: np.ndarray = np.rint(coords).astype(np.int64)
    return whole


def _checked(bag: Bag, path: Path) -> Bag:
    check_bag(str(path), bag)
    return bag


def _size(value: Any, name: str, path: Path) -> Any:
    """A size that a file states (the first if it states one per axis), checked; an integer if it is whole."""
    try:
        size = float(np.ravel(value)[0])
    except (IndexError, TypeError, ValueError):
        size = float("nan")
    if not np.isfinite(size) or size < 0 or (size == 0 and name != "overlap"):
        raise BagError(f"{path}: {name} is {str(value)[:40]}", "extract the slide again")
    return int(size) if size.is_integer() else size
