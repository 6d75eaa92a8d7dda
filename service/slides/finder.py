"""Slides that a request may name: those in the slide folders, and uploaded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.errors import NotFoundError
from service.ids import is_id
from service.intake.uploads import UploadStore
from service.slides.folders import SlideFolders

__all__ = ["SlideFiles"]


class SlideFiles:
    """Finds a slide by its id or its path, and the id of a prediction's source."""

    def __init__(self, folders: SlideFolders, uploads: UploadStore) -> None:
        self.folders, self._uploads = folders, uploads

    def find(self, id_or_path: str) -> Path:
        """The file of a slide, or the folder of a DICOM slide; an uploaded slide has its upload's id.

        Raises:
            NotFoundError: there is none.
            ComelError: no folder is set, or the path is absolute or leads outside.
        """
        if is_id(id_or_path) and (path := self._uploaded(id_or_path)) is not None:
            return path
        return self.folders.find(id_or_path)

    def id_of(self, source: dict[str, Any]) -> str | None:
        """The id of the slide that ``source`` (of a job or a prediction) names; None if it cannot be shown."""
        if "upload" in source:
            return source["upload"] if self._uploaded(source["upload"]) is not None else None
        if "path" in source and (path := Path(source["path"])).exists():
            return self.folders.id_of(path)
        return None

    def _uploaded(self, identifier: str) -> Path | None:
        try:
            upload = self._uploads.get(identifier)
        except NotFoundError:
            return None
        path = self._uploads.path(upload)
        return path if upload.kind == "slide" and path.is_file() else None
