"""A prediction's folder: everything stored for it.

``prediction.json``
    the model's answer, without the tiles; as :meth:`comel.prediction.prediction.Prediction.to_dict` names it.
``instances.npz``
    the values of every tile: ``instance_scores``, and ``coords`` and ``class_scores`` if known.
``bag.h5``
    the bag that it was made from.
``thumbnail.png``, ``tiles/01.jpg`` ...
    if it was made from a slide: the slide as a small picture, and its strongest tiles.
``origin.json``
    facts otherwise only in the service's list: the model's name, the prediction's source, and the requesting API key.
``map.png``
    the default map, made when first requested.

A folder is written under another name and renamed when complete. Nothing here uses the database.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comel.base.files import write_json
from comel.errors import ComelError
from comel.prediction.prediction import Prediction
from service.ids import new_id
from service.paths import PARTIAL

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Stored", "folder_bytes", "read_folder", "read_origin", "write_folder"]

_JPEG_QUALITY = 88
_PER_TILE = ("instance_scores", "coords", "class_scores")
_NO_TILES: dict[str, Any] = dict.fromkeys(_PER_TILE) | {"instance_scores": np.zeros(0, np.float32)}


@dataclass(frozen=True)
class Stored:
    """A prediction and the folder that it lies in."""

    id: str
    folder: Path
    prediction: Prediction

    def has(self, name: str) -> bool:
        """Whether the folder has this file."""
        return (self.folder / name).is_file()


def write_folder(
    folder: Path,
    prediction: Prediction,
    *,
    bag: Callable[[Path], None],
    thumbnail: Image | None = None,
    tiles: Sequence[Image] = (),
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a prediction's complete folder; an existing one is kept, and the new one dropped.

    Args:
        folder: its final place.
        prediction: the model's answer.
        bag: writes the bag to the given path.
        thumbnail: the whole slide.
        tiles: the strongest tiles, strongest first.
        origin: the value for :func:`read_origin`.
    """
    partial = folder.with_name(f"{PARTIAL}{new_id()}")
    partial.mkdir(parents=True)
    try:
        bag(partial / "bag.h5")
        arrays = {name: value for name in _PER_TILE if (value := getattr(prediction, name)) is not None}
        np.savez(partial / "instances.npz", **arrays)
        said = dataclasses.replace(prediction, **_NO_TILES).to_dict()
        said["instances"] = {"count": len(prediction.instance_scores), "positive": prediction.positive_instances}
        if thumbnail is not None:
            thumbnail.save(partial / "thumbnail.png")
        if tiles:
            (partial / "tiles").mkdir()
        for rank, tile in enumerate(tiles, start=1):
            tile.save(partial / "tiles" / f"{rank:02d}.jpg", quality=_JPEG_QUALITY)
        write_json(partial / "origin.json", dict(origin or {}))
        write_json(partial / "prediction.json", said)
        # Not the bag: it was flushed when written or accepted, and the sender of one answered at once has a copy.
        for path in [*(path for path in partial.rglob("*") if path.name != "bag.h5"), partial]:
            _flush(path)
        try:
            os.rename(partial, folder)
        except OSError:
            # A folder of this name that is not empty: an earlier attempt got this far.
            if not (folder / "prediction.json").is_file():
                raise
            shutil.rmtree(partial)
        _flush(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_folder(folder: Path) -> Prediction:
    """The prediction that :func:`write_folder` wrote.

    Raises:
        ComelError: something is missing or damaged.
    """
    try:
        value: dict[str, Any] = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
        with np.load(folder / "instances.npz", allow_pickle=False) as arrays:
            per_tile = {name: arrays[name] for name in _PER_TILE if name in arrays}
        value["instances"] = {"scores": [], "coords": None}
        return dataclasses.replace(Prediction.from_dict(value), **per_tile)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComelError(
            f"the prediction's files are damaged ({type(error).__name__})", "predict the slide again, or restore a backup"
        ) from None


def read_origin(folder: Path) -> dict[str, Any]:
    """A prediction's recorded origin; empty if missing or damaged."""
    try:
        value = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def folder_bytes(folder: Path) -> int:
    """Size of the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
