"""The work behind the routes: a bag or a slide in, a prediction with its maps in the state folder out.

A prediction is a folder ``<state_dir>/<id>/`` with ``prediction.json``, ``map.png``, ``map.geojson`` and, for a slide,
``thumbnail.png``. It is written under another name and renamed when it is whole, and read from there, so predictions
outlive the service. All methods block and are safe from several threads.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import shutil
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol

from comel.bag import Bag, FeatureContract
from comel.errors import ComelError
from comel.files import atomic_path, canonical_json, write_text
from comel.maps import draw_map, to_geojson
from comel.prediction import Prediction, read_prediction
from service.hdf5_check import check_hdf5
from service.problems import UPLOADS, NotFoundError, TooLargeError
from service.received_bags import read_received_bag
from service.settings import ServiceSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.contract import ContractReader


__all__ = ["PredictionService", "PredictorLike", "Stored", "is_prediction_id", "resolve_slide"]


class PredictorLike(Protocol):
    """What the service needs of :class:`comel.predictor.Predictor`."""

    run_id: str
    version: int
    mode: str

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def tasks(self) -> list[dict[str, Any]]: ...

    @property
    def contract(self) -> FeatureContract: ...

    def predict(self, bag: Bag, *, task: str | None = None) -> Prediction: ...


@dataclass(frozen=True)
class Stored:
    """A prediction and the folder that it lies in."""

    id: str
    folder: Path
    prediction: Prediction

    def has(self, name: str) -> bool:
        """Whether the folder has this file."""
        return (self.folder / name).is_file()


class PredictionService:
    """Predicts, keeps and draws. One model, used by one request at a time."""

    def __init__(self, predictor: PredictorLike, settings: ServiceSettings) -> None:
        self.predictor = predictor
        self.settings = settings
        self.uploads = settings.state_dir / UPLOADS
        self._model_lock = threading.Lock()
        self._slide_lock = threading.Lock()

    @functools.cached_property
    def _reader(self) -> ContractReader:
        """Reads slides as the model wants them; made at the first slide."""
        from pipelines.contract import ContractReader

        return ContractReader(self.predictor.contract, device=self.settings.device)

    def predict_bag_file(self, path: Path, *, task: str | None, assume_encoder: str | None) -> Stored:
        """Predict from a feature file that a client sent; ``assume_encoder`` names its encoder where the file does not.

        Raises:
            TooLargeError: more instances than the settings allow.
            ComelError: the file cannot be read, or its features do not fit the model.
        """
        check_hdf5(path, max_bytes=self.settings.max_upload_bytes, max_instances=self.settings.max_instances)
        bag = read_received_bag(path, assume_encoder=assume_encoder)
        return self._store(self._predict(bag, task), None)

    def predict_slide(self, name: str, *, task: str | None, mpp: float | None) -> Stored:
        """Extract a slide of the slide folder as the model's feature contract says, and predict from it.

        Raises:
            NotFoundError: there is no such slide.
            ComelError: no slide folder is set, the name leads outside, the slide cannot be read, or the model's encoder is
                not at hand.
        """
        path = resolve_slide(self.settings.slide_root, name)
        with self._slide_lock:
            extracted = self._reader.extract(path, slide_id=path.stem, mpp=mpp)
            thumbnail = self._reader.thumbnail(path, mpp=mpp)
        prediction = self._predict(extracted.bag, task)
        prediction = dataclasses.replace(prediction, notes=(*prediction.notes, *extracted.notes))
        return self._store(prediction, thumbnail)

    def load(self, identifier: str) -> Stored:
        """A kept prediction.

        Raises:
            NotFoundError: there is none of this name.
        """
        folder = self.settings.state_dir / identifier
        if not is_prediction_id(identifier) or not folder.is_dir():
            raise NotFoundError("there is no prediction of this id", "use the id that POST /v1/predictions gave")
        return Stored(identifier, folder, read_prediction(folder / "prediction.json"))

    def map_png(self, identifier: str, *, width: int | None, alpha: float | None, threshold: float | None) -> bytes:
        """The map as PNG; as it was kept where nothing is asked to differ, else drawn anew.

        Raises:
            NotFoundError: there is no such prediction.
            ComelError: the bag has no coordinates.
        """
        stored = self.load(identifier)
        choices = {"width": width, "alpha": alpha, "threshold": threshold}
        chosen: dict[str, Any] = {name: value for name, value in choices.items() if value is not None}
        if not chosen and stored.has("map.png"):
            return (stored.folder / "map.png").read_bytes()
        picture = draw_map(stored.prediction, _thumbnail(stored), **chosen)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    def geojson(
        self, identifier: str, *, origin: Literal["bounds", "level0"], minimum_score: float | None, merge: bool
    ) -> dict[str, Any]:
        """The map as GeoJSON; see :func:`comel.maps.to_geojson`."""
        return to_geojson(self.load(identifier).prediction, minimum_score=minimum_score, origin=origin, merge=merge)

    def _predict(self, bag: Bag, task: str | None) -> Prediction:
        if len(bag) > self.settings.max_instances:
            raise TooLargeError(f"{bag.slide_id}: {len(bag)} instances", f"at most {self.settings.max_instances} are taken")
        with self._model_lock:
            prediction = self.predictor.predict(bag, task=task)
        unit = bag.settings.get("coords_unit")
        if unit is not None:
            note = f"coordinates are in the file's own unit ({unit}), not level-0 pixels"
            prediction = dataclasses.replace(prediction, notes=(*prediction.notes, note))
        return prediction

    def _store(self, prediction: Prediction, thumbnail: Image | None) -> Stored:
        identifier = uuid.uuid4().hex
        folder, partial = self.settings.state_dir / identifier, self.settings.state_dir / f".partial-{identifier}"
        partial.mkdir(parents=True)
        try:
            prediction.save_json(partial / "prediction.json")
            pictures = {} if thumbnail is None else {"thumbnail.png": thumbnail}
            if prediction.coords is not None:
                pictures["map.png"] = draw_map(prediction, thumbnail)
                if prediction.geometry is not None:
                    write_text(partial / "map.geojson", canonical_json(to_geojson(prediction)))
            for name, picture in pictures.items():
                with atomic_path(partial / name) as temporary:
                    picture.save(temporary)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Stored(identifier, folder, prediction)


def is_prediction_id(text: str) -> bool:
    """Whether ``text`` has the form of a prediction's id."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def resolve_slide(root: Path | None, name: str) -> Path:
    """The slide called ``name`` under ``root``.

    Raises:
        ComelError: no root is set, or ``name`` is absolute or leads outside, by ``..`` or by a symbolic link.
        NotFoundError: there is no such file.
    """
    if root is None:
        raise ComelError(
            "this service has no slide folder", "send a bag, or start the service with a slide folder (COMEL_SLIDE_ROOT)"
        )
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or not name.isprintable():
        raise ComelError("the slide's name is not a plain path below the slide folder", "name it relative to the slide folder")
    try:
        base = root.resolve(strict=True)
        path = (base / parts).resolve(strict=True)
    except (OSError, RuntimeError):
        raise NotFoundError(f"{name}: no such slide", "name a slide that lies below the slide folder") from None
    if not path.is_relative_to(base):
        raise ComelError(f"{name}: leads outside the slide folder", "name a slide that lies below the slide folder")
    if not path.is_file():
        raise NotFoundError(f"{name}: no such slide", "name a slide that lies below the slide folder")
    return path


def _thumbnail(stored: Stored) -> Image | None:
    from PIL import Image as Images

    if not stored.has("thumbnail.png"):
        return None
    with Images.open(stored.folder / "thumbnail.png") as image:
        return image.convert("RGB")
