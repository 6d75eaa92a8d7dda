"""One annotation file of a slide, and the share of each tile that lies inside what it marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import shapely

from comel.bags.bag import TileGeometry
from pipelines.annotations.mask import MASK_SUFFIXES, MarkedMask
from pipelines.annotations.problems import annotation_error
from pipelines.annotations.qupath import read_geojson
from pipelines.annotations.vector import MarkedShapes
from pipelines.annotations.vendor_xml import read_xml
from pipelines.slides.unreadable import unreadable

__all__ = ["Annotation", "instance_labels", "read_annotation"]


Extent = Literal["nothing", "a part", "everything"]


class Annotation(Protocol):
    """Areas that are marked on a slide.

    Attributes:
        classes: the names of the classes marked, as the file writes them; empty where its kind knows none.
        without_area: whether no outline of the file encloses an area; of a mask, which may be of a slide without a finding,
            never.
    """

    classes: tuple[str, ...]
    without_area: bool

    def extent(self, classes: Sequence[str] = ()) -> Extent:
        """How much of the slide counts as marked, of these classes only; empty as in :meth:`share`."""
        ...

    def share(self, coords: np.ndarray, geometry: TileGeometry, classes: Sequence[str] = ()) -> np.ndarray:
        """The share of each tile's area that is marked.

        Args:
            coords: (N, 2) level-0 top-left pixels (x, y).
            geometry: the tiles' geometry.
            classes: count only these classes; empty counts all except those that are cut out.

        Returns:
            (N,) floats, 0 to 1.

        Raises:
            SlideError: classes are requested of a file whose kind has none (stage "annotation").
        """
        ...


def read_annotation(path: Path, geometry: TileGeometry, *, any_class: bool = False) -> Annotation:
    """Read an annotation; its kind follows from the file's suffix.

    - ``.png``, ``.tif``, ``.tiff``: a mask image of the whole level 0 at any scale; every pixel that is neither zero nor
      transparent is marked.
    - ``.xml``: ASAP, level-0 pixels; a group is a class. Groups named ``_2``, ``Exclusion``, ``None``, ``Normal`` are cut out
      (CAMELYON). Or Aperio ImageScope, level-0 pixels (PAIP); a layer is a class. Areas marked as negative (``NegativeROA``)
      and layers with such names are cut out.
    - ``.geojson``, ``.json``: QuPath. Its coordinates start at the slide's bounds if the slide states them, and are
      moved back here. Classes ``Ignore*``, ``Negative``, ``Normal``, ``Exclusion``, ``None`` and ``Hole`` are cut out; other
      classes ending in ``*`` (``Region*``) are skipped, as in QuPath, unless requested by name.

    Args:
        path: the file.
        geometry: the geometry of any tiles of the slide it belongs to.
        any_class: take outlines of every class except ``Ignore*``, ``Exclusion``, ``Exclude`` and ``Hole``, which with negative
            areas stay cut out.

    Raises:
        SlideError: the file is missing, damaged, of another kind, or belongs to another slide (stage "annotation").
    """
    path = Path(path)
    try:
        return _read(path, geometry, any_class)
    except OSError as error:
        raise unreadable(path, error, stage="annotation") from None


def _read(path: Path, geometry: TileGeometry, any_class: bool) -> Annotation:
    if not path.is_file():
        raise annotation_error(path, "no such file", "check the manifest column 'annotation'")
    # Image libraries report an unreadable file as damaged.
    open(path, "rb").close()
    suffix = path.suffix.lower()
    if suffix in MASK_SUFFIXES:
        return MarkedMask(path, geometry.level0_width, geometry.level0_height)
    if suffix not in {".xml", ".geojson", ".json"}:
        remedy = "give .xml of ASAP or ImageScope, QuPath .geojson or a mask .png or .tif"
        raise annotation_error(path, f"'{suffix}' is not an annotation format", remedy)
    marked = read_xml(path) if suffix == ".xml" else read_geojson(path, _origin(geometry))
    slide = shapely.box(0, 0, geometry.level0_width, geometry.level0_height)
    if marked and not any(shapely.intersects(area.shape, slide) for area in marked):
        raise annotation_error(path, "none of it lies on the slide", "give the file of this slide, in level-0 pixels")
    return MarkedShapes(marked, any_class=any_class)


def instance_labels(
    annotation: Annotation,
    coords: np.ndarray,
    geometry: TileGeometry,
    *,
    positive_overlap: float = 0.25,
    classes: Sequence[str] = (),
) -> np.ndarray:
    """Label each tile by the share of its area that lies inside an annotation.

    Args:
        annotation: see :func:`read_annotation`.
        coords: (N, 2) level-0 top-left pixels (x, y).
        geometry: the tiles' geometry.
        positive_overlap: least share of a tile's area inside the annotation that makes it positive.
        classes: the classes that are positive; empty takes all except those that are cut out.

    Returns:
        (N,) int8, 1 positive, 0 negative.

    Raises:
        SlideError: classes are requested of a file whose kind has none (stage "annotation").
    """
    # A share computed by differences may fall short of an exact threshold by rounding.
    return (annotation.share(coords, geometry, classes) >= positive_overlap - 1e-6).astype(np.int8)


def _origin(geometry: TileGeometry) -> tuple[int, int]:
    return (geometry.bounds_x, geometry.bounds_y) if geometry.has_bounds else (0, 0)
