"""Tissue that a user drew: a mask image or an outline of each slide, in a folder."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comel.bags.bag import TileGeometry
from comel.base.names import composed, same_text
from comel.errors import SlideError
from pipelines.slides.unreadable import unreadable

if TYPE_CHECKING:
    from pipelines.slides.slide import Slide

__all__ = ["OWN_TISSUE", "draw_own_tissue", "own_tissue", "unclaimed_tissue"]

_SUFFIXES = {"mask": (".png", ".tif", ".tiff"), "geojson": (".geojson", ".json")}
OWN_TISSUE = frozenset(_SUFFIXES)
"""Methods that use a user's own tissue instead of finding it."""
_ANY = (*_SUFFIXES["mask"], *_SUFFIXES["geojson"], ".xml")
_MOST_CELLS = 1 << 19


def own_tissue(folder: Path | None, slide_id: str, method: str) -> Path | None:
    """The user's own file of a slide's tissue.

    Args:
        folder: holds ``<slide_id>.png``, ``.tif``, ``.tiff``, ``.geojson``, ``.json`` or ``.xml``, one file per slide; the
            suffix in any letter case.
        slide_id: the slide.
        method: ``mask`` or ``geojson`` need a file of that kind for every slide; any other method handles slides without a file
            itself.

    Returns:
        The file; None if there is none and none is needed.

    Raises:
        SlideError: the slide has no file but needs one, or has several, or the folder cannot be read (stage "tissue").
    """
    if folder is None:
        return None
    suffixes = _SUFFIXES.get(method, _ANY)
    try:
        suiting = [file for file in Path(folder).iterdir() if _is_of(file, suffixes) and file.is_file()]
        named = [file for file in suiting if file.stem == slide_id] or [f for f in suiting if same_text(f.stem, slide_id)]
    except OSError as error:
        raise unreadable(folder, error, stage="tissue") from None
    files = sorted(named, key=lambda file: (suffixes.index(file.suffix.lower()), file.name))
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise SlideError(f"{folder}: {slide_id} has {names}", "keep the one that shows its tissue", stage="tissue")
    if not files and method in _SUFFIXES:
        wanted = " or ".join(f"{slide_id}{suffix}" for suffix in suffixes)
        remedy = "draw it, or extract with --tissue hsv-otsu or stain-density, for slides without a file"
        raise SlideError(f"{folder}: no {wanted}", remedy, stage="tissue")
    return files[0] if files else None


def unclaimed_tissue(folder: Path, slide_ids: Collection[str]) -> list[str]:
    """Names of possible tissue files that do not belong to any of these slides.

    Raises:
        OSError: the folder cannot be read.
    """
    visible = [path for path in Path(folder).iterdir() if _is_of(path, _ANY) and not path.name.startswith(".")]
    claimed = {composed(name) for name in slide_ids}
    return sorted(path.name for path in visible if composed(path.stem) not in claimed and path.is_file())


def _is_of(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes


def draw_own_tissue(file: Path, slide: Slide, shape: tuple[int, int]) -> np.ndarray:
    """The tissue of a user's file as (h, w) bool: a cell of the slide is tissue if at least half of it is marked.

    Outlines of every class are tissue, also ``Normal`` and ``Region*``; see :func:`pipelines.annotations.read_annotation`.

    Outlines are cut exactly, so large slides use cells of several mask pixels: at most half a million.

    Args:
        file: see :func:`pipelines.annotations.read_annotation` for the formats.
        slide: the slide it belongs to.
        shape: (h, w) of the mask.

    Raises:
        SlideError: the file is damaged, of another kind, or belongs to another slide (stage "tissue").
    """
    import cv2

    from pipelines.annotations import instance_labels, read_annotation

    fewer = max(1.0, math.sqrt(shape[0] * shape[1] / _MOST_CELLS))
    rows, columns = max(1, round(shape[0] / fewer)), max(1, round(shape[1] / fewer))
    width, height = slide.dimensions
    cell = TileGeometry(
        patch_size=1,
        mpp_x=width / columns * slide.mpp_x,
        mpp_y=height / rows * slide.mpp_y,
        level0_mpp_x=slide.mpp_x,
        level0_mpp_y=slide.mpp_y,
        level0_width=width,
        level0_height=height,
        bounds_x=slide.bounds[0] if slide.bounds else 0,
        bounds_y=slide.bounds[1] if slide.bounds else 0,
        has_bounds=slide.bounds is not None,
        name=slide.path.name,
    )
    x, y = np.arange(columns) * cell.tile_width, np.arange(rows) * cell.tile_height
    corners = np.stack([np.tile(x, rows), np.repeat(y, columns)], axis=1)
    try:
        drawn = read_annotation(file, cell, any_class=True)
    except SlideError as error:
        raise SlideError(error.what, f"in the tissue folder {file.parent}: {error.remedy}", stage="tissue") from None
    marked = instance_labels(drawn, corners, cell, positive_overlap=0.5).reshape(rows, columns)
    return cv2.resize(marked.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
