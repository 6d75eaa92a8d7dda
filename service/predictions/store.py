"""Kept predictions: folders ``<state_dir>/predictions/<id>/``, with a row each in the table ``predictions`` to list them by."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import delete

from comel.base.files import atomic_path
from comel.errors import ComelError
from comel.prediction.geojson import to_geojson
from comel.prediction.picture import PNG_EFFORT, draw_map
from service.db.database import Database
from service.db.pages import Page, page_of
from service.db.tables import PredictionRow
from service.errors import NotFoundError
from service.ids import is_id
from service.predictions.folder import Stored, read_folder, remove_folder
from service.predictions.work import PREDICTIONS, TOP_TILES, Made

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PredictionStore", "row_of"]


class PredictionStore:
    """Reads, lists and deletes. All methods block and are safe from several threads and processes."""

    def __init__(self, database: Database, state_dir: Path) -> None:
        self._database = database
        self.folder = state_dir / PREDICTIONS

    def add(self, made: Made, model: str, source: dict[str, Any]) -> None:
        """Put a prediction whose folder is there into the list."""
        with self._database.writing() as session:
            row = row_of(made, model, source)
            row.created = self._database.now(session)
            session.add(row)

    def row(self, identifier: str) -> PredictionRow:
        """What the list says of a prediction.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            row = session.get(PredictionRow, identifier) if is_id(identifier) else None
        if row is None:
            raise _unknown()
        return row

    def load(self, identifier: str) -> Stored:
        """A prediction, whole.

        Raises:
            NotFoundError: there is none.
            ComelError: its files are damaged.
        """
        folder = self.folder / self.row(identifier).id
        if not folder.is_dir():
            raise _unknown()
        return Stored(identifier, folder, read_folder(folder))

    def list(self, *, limit: int, cursor: str | None) -> Page[PredictionRow]:
        """Predictions, newest first.

        Raises:
            ComelError: the cursor is none that a page gave.
        """
        with self._database.reading() as session:
            return page_of(session, PredictionRow, [], limit=limit, cursor=cursor)

    def delete(self, identifier: str) -> None:
        """Remove a prediction with everything that is kept of it.

        Raises:
            NotFoundError: there is none.
        """
        row = self.row(identifier)
        with self._database.writing() as session:
            session.execute(delete(PredictionRow).where(PredictionRow.id == row.id))
        remove_folder(self.folder / row.id)

    def map_png(self, identifier: str, **choices: Any) -> bytes:
        """The map as PNG: ``width``, ``alpha``, ``threshold`` and ``colormap`` are those of
        :func:`comel.prediction.picture.draw_map`.

        The map of the defaults is kept when it was drawn once.

        Raises:
            NotFoundError: there is no such prediction.
            ComelError: the bag has no coordinates.
        """
        stored = self.load(identifier)
        chosen = {name: value for name, value in choices.items() if value is not None}
        if not chosen and stored.has("map.png"):
            return (stored.folder / "map.png").read_bytes()
        picture = draw_map(stored.prediction, _thumbnail(stored), **chosen)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=PNG_EFFORT)
        if not chosen:
            # Who deleted the prediction meanwhile must not find its map there again.
            with suppress(FileNotFoundError), atomic_path(stored.folder / "map.png", parents=False) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        return buffer.getvalue()

    def geojson(
        self, identifier: str, *, origin: Literal["bounds", "level0"], minimum_score: float | None, merge: bool
    ) -> dict[str, Any]:
        """The map as GeoJSON; see :func:`comel.prediction.geojson.to_geojson`."""
        return to_geojson(self.load(identifier).prediction, minimum_score=minimum_score, origin=origin, merge=merge)

    def bag(self, identifier: str) -> Path:
        """The bag that a prediction was made from.

        Raises:
            NotFoundError: there is no such prediction, or no bag was kept.
        """
        return self._file(identifier, "bag.h5")

    def tile(self, identifier: str, rank: int) -> Path:
        """The picture of one of the strongest tiles; ``rank`` 1 is the strongest.

        Raises:
            NotFoundError: there is no such prediction or picture.
        """
        if not 1 <= rank <= TOP_TILES:
            raise NotFoundError(f"there is no picture of rank {rank}", f"there are at most {TOP_TILES}")
        return self._file(identifier, f"tiles/{rank:02d}.jpg")

    def _file(self, identifier: str, name: str) -> Path:
        path = self.folder / self.row(identifier).id / name
        if not path.is_file():
            raise NotFoundError("the prediction has no such file", "only predictions made from a slide have pictures")
        return path


def row_of(made: Made, model: str, source: dict[str, Any]) -> PredictionRow:
    """What the list says of a prediction that was made; when, the database's clock says."""
    told = {name: getattr(made, name) for name in ("id", "slide_id", "label", "confidence", "version", "size")}
    return PredictionRow(model=model, source=source, **told)


def _unknown() -> ComelError:
    return NotFoundError("there is no prediction of this id", "use an id that POST or GET /v1/predictions gives")


def _thumbnail(stored: Stored) -> Image | None:
    from PIL import Image as Images

    if not stored.has("thumbnail.png"):
        return None
    with Images.open(stored.folder / "thumbnail.png") as image:
        return image.convert("RGB")
