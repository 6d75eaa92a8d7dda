"""Stored predictions: folders ``<state_dir>/predictions/<id>/``, with one row each in the table ``predictions`` for listing."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
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
from service.paths import bring_back, take_away
from service.predictions.folder import Stored, read_folder
from service.predictions.work import PREDICTIONS, TOP_TILES, Made

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PredictionStore", "row_of"]


class PredictionStore:
    """Reads, lists and deletes. All methods block and are safe across threads and processes."""

    def __init__(self, database: Database, state_dir: Path) -> None:
        self._database = database
        self.folder = state_dir / PREDICTIONS

    def add(self, row: PredictionRow, *, record: Callable[[], None] = lambda: None) -> None:
        """Add a prediction with an existing folder to the list; ``record`` is called before it takes effect."""
        with self._database.writing() as session:
            row.created = self._database.now(session)
            session.add(row)
            session.flush()
            record()

    def row(self, identifier: str) -> PredictionRow:
        """A prediction's list entry.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            row = session.get(PredictionRow, identifier) if is_id(identifier) else None
        if row is None:
            raise _unknown()
        return row

    def load(self, identifier: str) -> Stored:
        """A complete prediction.

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
            ComelError: the cursor did not come from a page.
        """
        with self._database.reading() as session:
            return page_of(session, PredictionRow, [], limit=limit, cursor=cursor)

    def delete(self, identifiers: Sequence[str], *, record: Callable[[], None] = lambda: None) -> None:
        """Remove predictions with everything stored for them; missing ones are ignored.

        The folders are renamed first: if the process is killed, the remains are then deleted, and never taken for a
        prediction that the database lost. ``record`` is called first; if that or the database fails, all stays.
        """
        aside: list[Path] = []
        try:
            with self._database.writing() as session:
                self._database.expect(session)
                aside += [path for name in identifiers if (path := take_away(self.folder / name)) is not None]
                session.execute(delete(PredictionRow).where(PredictionRow.id.in_(identifiers)))
                record()
        except BaseException:
            for path in aside:
                bring_back(path)
            raise
        for path in aside:
            shutil.rmtree(path, ignore_errors=True)

    def map_png(self, identifier: str, **choices: Any) -> bytes:
        """The map as PNG: ``width``, ``alpha``, ``threshold`` and ``colormap`` are those of
        :func:`comel.prediction.picture.draw_map`.

        The default map is kept once drawn.

        Raises:
            NotFoundError: there is no such prediction.
            ComelError: the bag has no coordinates.
        """
        stored = self.load(identifier)
        chosen = {name: value for name, value in choices.items() if value is not None}
        if not chosen:
            with suppress(OSError):  # not drawn yet
                return (stored.folder / "map.png").read_bytes()
        picture = draw_map(stored.prediction, _thumbnail(stored), **chosen)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=PNG_EFFORT)
        if not chosen:
            # The map of a prediction deleted meanwhile must not reappear; on a full disk no map is kept.
            with suppress(OSError), atomic_path(stored.folder / "map.png", parents=False) as temporary:
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


def row_of(made: Made, model: str, source: dict[str, Any], key: str | None) -> PredictionRow:
    """A new prediction's list entry, with the database's time."""
    told = {name: getattr(made, name) for name in ("id", "slide_id", "label", "confidence", "version", "size")}
    return PredictionRow(model=model, source=source, key=key, **told)


def _unknown() -> ComelError:
    return NotFoundError("there is no prediction of this id", "use an id that POST or GET /v1/predictions gives")


def _thumbnail(stored: Stored) -> Image | None:
    from PIL import Image as Images

    if not stored.has("thumbnail.png"):
        return None
    with Images.open(stored.folder / "thumbnail.png") as image:
        return image.convert("RGB")
