"""The work itself: a bag or a slide in, a prediction's folder out. Uses models and files, but neither HTTP nor the database.

Done in worker processes.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from comel.bags.bag import Bag, write_bag
from comel.bags.contract import FeatureContract
from comel.base.files import canonical_json
from comel.prediction.prediction import Prediction
from service.errors import TooLargeError, needing_room
from service.intake.hdf5_check import check_hdf5
from service.intake.received_bags import read_received_bag
from service.predictions.folder import folder_bytes, read_folder, write_folder
from service.served.registry import PredictorLike
from service.settings import ServiceSettings
from service.slides.top_tiles import strongest, tile_pictures

if TYPE_CHECKING:
    from pipelines.extraction.contract import ContractReader

__all__ = ["PREDICTIONS", "TOP_TILES", "Made", "Tell", "Work", "Workbench", "made_of"]

PREDICTIONS = "predictions"
TOP_TILES = 12
_OPEN_READERS = 2

Tell = Callable[[str, int, int], None]
"""Called with (stage, done, total) during the work; in tiles for the stage ``encode``."""
OpenModel = Callable[[str, int | None], PredictorLike]


@dataclass(frozen=True)
class Work:
    """One prediction to be made.

    Attributes:
        id: the prediction's id and its folder's name.
        kind: the kind of ``path``.
        path: the bag or the slide.
        slide_id: the slide's name; for a bag only if the bag does not state it.
        model, version: the model to predict with.
        task, mpp, assume_encoder: the client's values; None if not given.
        origin: the prediction's recorded origin.
    """

    id: str
    kind: Literal["bag", "slide"]
    path: Path
    slide_id: str
    model: str
    version: int | None
    task: str | None = None
    mpp: float | None = None
    assume_encoder: str | None = None
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """The list entry of a new prediction; ``size`` is its folder's size in bytes, ``instances`` its tiles."""

    id: str
    slide_id: str
    label: str | None
    confidence: float | None
    run: str
    version: int
    instances: int
    size: int


class Workbench:
    """Makes predictions; only one at a time uses a model, and only one at a time reads a slide.

    Args:
        settings: the service's.
        open_model: returns the model of a name and a version; :meth:`service.served.registry.ModelRegistry.get`.
    """

    def __init__(self, settings: ServiceSettings, open_model: OpenModel) -> None:
        self.settings, self.open_model = settings, open_model
        self._predicting, self._reading = threading.Lock(), threading.Lock()
        self._readers: OrderedDict[str, ContractReader] = OrderedDict()

    def perform(self, work: Work, tell: Tell = lambda stage, done, total: None) -> Made:
        """Make the prediction; a second call returns the first one's result.

        Raises:
            TooLargeError: more instances than the settings allow.
            NoRoomError: the disk is full.
            ComelError: the file cannot be read, its features do not fit the model, or the model's encoder is not available.
        """
        folder = self.settings.state_dir / PREDICTIONS / work.id
        if not folder.is_dir():
            tell("open", 0, 0)
            predictor = self.open_model(work.model, work.version)
            with needing_room():
                (self._from_slide if work.kind == "slide" else self._from_bag)(work, predictor, folder, tell)
        return made_of(work.id, folder)

    def _from_bag(self, work: Work, predictor: PredictorLike, folder: Path, tell: Tell) -> None:
        check_hdf5(work.path, max_bytes=self.settings.max_upload_bytes, max_instances=self.settings.max_instances)
        bag = read_received_bag(work.path, assume_encoder=work.assume_encoder)
        tell("predict", 0, len(bag))
        prediction = self._predict(predictor, bag, work.task)
        write_folder(folder, prediction, bag=lambda place: _link(work.path, place), origin=work.origin)

    def _from_slide(self, work: Work, predictor: PredictorLike, folder: Path, tell: Tell) -> None:
        with self._reading:
            reader = self._reader(predictor.contract)
            extracted = reader.extract(work.path, slide_id=work.slide_id, mpp=work.mpp, progress=tell)
            bag = extracted.bag
            tell("predict", len(bag), len(bag))
            thumbnail = reader.thumbnail(work.path, mpp=work.mpp)
            prediction = self._predict(predictor, bag, work.task)
            prediction = dataclasses.replace(prediction, notes=(*prediction.notes, *extracted.notes))
            tiles = tile_pictures(work.path, prediction, strongest(prediction, TOP_TILES), mpp=work.mpp)
        write_folder(
            folder,
            prediction,
            bag=lambda place: write_bag(place, bag),
            thumbnail=thumbnail,
            tiles=tiles,
            origin=work.origin,
        )

    def _predict(self, predictor: PredictorLike, bag: Bag, task: str | None) -> Prediction:
        if len(bag) > self.settings.max_instances:
            raise TooLargeError(f"{bag.slide_id}: {len(bag)} instances", f"at most {self.settings.max_instances} are taken")
        with self._predicting:
            prediction = predictor.predict(bag, task=task)
        unit = bag.settings.get("coords_unit")
        if unit is not None:
            note = f"coordinates are in the file's own unit ({unit}), not level-0 pixels"
            prediction = dataclasses.replace(prediction, notes=(*prediction.notes, note))
        return prediction

    def _reader(self, contract: FeatureContract) -> ContractReader:
        from pipelines.extraction.contract import ContractReader

        key = canonical_json(dataclasses.asdict(contract))
        if key not in self._readers:
            self._readers[key] = ContractReader(
                contract,
                device=self.settings.device,
                trust=self.settings.trust(),
                tissue_folder=self.settings.tissue_folder,
            )
            if len(self._readers) > _OPEN_READERS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(key)
        return self._readers[key]


def made_of(identifier: str, folder: Path) -> Made:
    """The list entry of the prediction in a folder.

    Raises:
        ComelError: something is missing or damaged.
    """
    prediction = read_folder(folder)
    return Made(
        identifier,
        prediction.slide_id,
        prediction.predicted_class,
        prediction.confidence,
        str(prediction.model.get("run")),
        int(prediction.model.get("version") or 0),
        len(prediction.instance_scores),
        folder_bytes(folder),
    )


def _link(source: Path, place: Path) -> None:
    """The same file under another name; a copy if the file system cannot link. The first name may then be removed."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
