"""Which tiles of a slide an annotation calls positive: mask images, XML of ASAP and of ImageScope, and QuPath GeoJSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from comel.bag import TileGeometry
from comel.errors import SlideError
from pipelines.tissue import area_fraction

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["instance_labels"]

_EXCLUDED = {"_2", "exclusion", "none", "normal", "negative", "hole", "ignore", "ignore*"}
_IMAGESCOPE_ELLIPSE = "2"
_MASK_SUFFIXES = {".png", ".tif", ".tiff"}
_MOST_ASPECT_MISMATCH = 0.02
_MAX_VECTOR_BYTES = 512 << 20
_MAX_MASK_PIXELS = 128 << 20


def instance_labels(
    annotation: Path, coords: np.ndarray, geometry: TileGeometry, *, positive_overlap: float = 0.25
) -> np.ndarray:
    """Label each tile by the share of its area that lies inside the annotation.

    - ``.png``, ``.tif``, ``.tiff``: a mask image of the whole level 0 at any scale; every pixel that is neither zero nor
      transparent is positive.
    - ``.xml``: ASAP, level-0 pixels. Groups named ``_2``, ``Exclusion``, ``None``, ``Normal`` are cut out (CAMELYON).
      Or Aperio ImageScope, level-0 pixels (PAIP): the areas of all layers are positive; those marked as negative
      (``NegativeROA``) and layers with such names are cut out.
    - ``.geojson``, ``.json``: QuPath. Its coordinates start at the slide's bounds where the slide states them, and are
      moved back here. Classes ``Ignore*``, ``Negative``, ``Normal``, ``Exclusion``, ``None`` and ``Hole`` are cut out; other
      classes ending in ``*`` (``Region*``) are skipped, as in QuPath; all else is positive.

    Args:
        annotation: the file.
        coords: (N, 2) level-0 top-left pixels (x, y).
        geometry: the tiles' geometry.
        positive_overlap: least share of a tile's area inside the annotation that makes it positive.

    Returns:
        (N,) int8, 1 positive, 0 negative.

    Raises:
        SlideError: the file is missing, damaged, of another kind, or belongs to another slide (stage "annotation").
    """
    annotation = Path(annotation)
    if not annotation.is_file():
        raise _error(annotation, "no such file", "check the manifest column 'annotation'")
    suffix = annotation.suffix.lower()
    if suffix in _MASK_SUFFIXES:
        mask = _read_mask(annotation)
        scale_x, scale_y = geometry.level0_width / mask.shape[1], geometry.level0_height / mask.shape[0]
        if abs(scale_x / scale_y - 1) > _MOST_ASPECT_MISMATCH:
            raise _error(
                annotation,
                f"a mask of {mask.shape[1]} x {mask.shape[0]} px does not fit a slide of "
                f"{geometry.level0_width} x {geometry.level0_height} px",
                "give the mask of this slide, covering all of level 0",
            )
        share = area_fraction(mask, scale_x, scale_y, coords, geometry.tile_width, geometry.tile_height)
    elif suffix in {".xml", ".geojson", ".json"}:
        region = _read_xml(annotation) if suffix == ".xml" else _read_geojson(annotation, geometry)
        slide = shapely.box(0, 0, geometry.level0_width, geometry.level0_height)
        if not region.is_empty and not shapely.intersects(region, slide):
            raise _error(annotation, "nothing of it lies on the slide", "give the annotation of this slide, in level-0 pixels")
        share = _covered_share(region, coords, geometry)
    else:
        raise _error(
            annotation,
            f"'{suffix}' is no kind of annotation",
            "give .xml of ASAP or ImageScope, QuPath .geojson or a mask .png or .tif",
        )
    # A share computed by differences may fall short of an exact threshold by rounding.
    return (share >= positive_overlap - 1e-6).astype(np.int8)


def _covered_share(region: shapely.Geometry, coords: np.ndarray, geometry: TileGeometry) -> np.ndarray:
    """(N,) share of each tile's area inside a region; only tiles on a border are cut exactly."""
    left, top = coords[:, 0], coords[:, 1]
    tiles = shapely.box(left, top, left + geometry.tile_width, top + geometry.tile_height)
    share = np.zeros(len(coords))
    tree = shapely.STRtree(tiles)
    tile_area = geometry.tile_width * geometry.tile_height
    for part in shapely.get_parts(region):
        inside = tree.query(part, predicate="contains_properly")
        border = np.setdiff1d(tree.query(part, predicate="intersects"), inside)
        share[inside] += 1.0
        share[border] += shapely.area(shapely.intersection(tiles[border], part)) / tile_area
    return share


def _read_mask(path: Path) -> np.ndarray:
    """A mask image as (h, w) bool; of a TIFF pyramid the finest level that fits the memory limit."""
    import tifffile
    from PIL import Image

    try:
        if path.suffix.lower() != ".png":
            with tifffile.TiffFile(path) as tiff:
                for level in tiff.series[0].levels:
                    pixels = int(np.prod(level.shape, dtype=object))
                    if pixels * level.dtype.itemsize <= 4 * _MAX_MASK_PIXELS:
                        return _nonzero(path, level.asarray(), level.axes)
            raise _error(path, f"a mask of more than {_MAX_MASK_PIXELS >> 20} Mpx", "save it at a lower resolution")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                if image.width * image.height > _MAX_MASK_PIXELS:
                    raise _error(path, f"a mask of more than {_MAX_MASK_PIXELS >> 20} Mpx", "save it at a lower resolution")
                alpha = image.mode.endswith("A")
                values = np.asarray(image)
        if alpha:
            return (values[..., -1] > 0) & (values[..., :-1] > 0).any(axis=-1)
        return np.any(values[..., None] if values.ndim == 2 else values, axis=-1)
    except SlideError:
        raise
    except Exception as error:  # image libraries raise whatever a damaged file makes them stumble over
        raise _error(path, f"the mask cannot be read ({type(error).__name__})", "save it again as PNG") from error


def _nonzero(path: Path, values: np.ndarray, axes: str) -> np.ndarray:
    axes = "".join(axes)
    if axes in ("YXS", "SYX"):
        return np.any(values, axis=axes.index("S"))
    if axes == "YX":
        return values > 0
    raise _error(path, f"a mask with axes {axes}", "save it as one two-dimensional image")


def _read_xml(path: Path) -> shapely.Geometry:
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    _check_size(path)
    try:
        root = parse(path, forbid_dtd=True).getroot()
        if root.tag == "ASAP_Annotations":
            shapes = list(_asap_shapes(root))
        elif root.tag == "Annotations":
            shapes = list(_imagescope_shapes(root))
        else:
            raise _error(
                path,
                f"its root is '{root.tag}', neither ASAP_Annotations nor ImageScope's Annotations",
                "export it from ASAP or ImageScope",
            )
    except (ParseError, DefusedXmlException, ValueError, shapely.errors.ShapelyError) as error:
        raise _error(path, f"not a usable ASAP or ImageScope file ({error})", "export it again") from None
    return _region(path, shapes)


def _asap_shapes(root: Element) -> Iterator[tuple[shapely.Geometry, str]]:
    """(polygon, group) of each annotation."""
    for entry in root.iter("Annotation"):
        if entry.get("Type") not in ("Dot", "PointSet", "Measurement"):
            points = [
                (int(node.get("Order", 0)), float(node.get("X", "")), float(node.get("Y", "")))
                for node in entry.iter("Coordinate")
            ]
            yield _polygon([point[1:] for point in sorted(points)]), entry.get("PartOfGroup", "")


def _imagescope_shapes(root: Element) -> Iterator[tuple[shapely.Geometry, str]]:
    """(area, layer's name) of each region; a negative one is a hole. Arrows and rulers, of two points, have no area."""
    for layer in root.iter("Annotation"):
        described = (
            node.get("Value", "") for node in layer.iterfind("Attributes/Attribute") if node.get("Name") == "Description"
        )
        name = layer.get("Name") or next(described, "")
        for region in layer.iter("Region"):
            points = [(float(node.get("X", "")), float(node.get("Y", ""))) for node in region.iter("Vertex")]
            is_ellipse = region.get("Type") == _IMAGESCOPE_ELLIPSE and 2 <= len(points) <= 4
            shape = _ellipse(points) if is_ellipse else _polygon(points)
            yield shape, "hole" if region.get("NegativeROA") == "1" else name


def _polygon(points: Sequence[tuple[float, ...]]) -> shapely.Geometry:
    return shapely.Polygon(points) if len(points) >= 3 else shapely.Polygon()


def _ellipse(points: Sequence[tuple[float, ...]]) -> shapely.Geometry:
    """The ellipse that touches the sides of the points' bounding box, be they its corners or where it touches."""
    corners = np.array(points)
    centre, half = (corners.max(axis=0) + corners.min(axis=0)) / 2, np.ptp(corners, axis=0) / 2
    angles = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    return shapely.Polygon(centre + half * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _read_geojson(path: Path, geometry: TileGeometry) -> shapely.Geometry:
    _check_size(path)
    try:
        content = json.loads(path.read_bytes())
        shapes = [(shapely.geometry.shape(shape), name) for shape, name in _features(content)]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, shapely.errors.ShapelyError) as error:
        raise _error(
            path, f"not a usable GeoJSON file ({type(error).__name__}: {error})", "export it from QuPath again"
        ) from None
    region = _region(path, shapes)
    if not geometry.has_bounds:
        return region
    offset = np.array([geometry.bounds_x, geometry.bounds_y])
    return shapely.transform(region, lambda points: points + offset)


def _features(content: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """(geometry, class name) of each feature of a collection, a list, or a single feature."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content["features"]
    for feature in content if isinstance(content, list) else [content]:
        if feature.get("type") != "Feature":
            raise ValueError("an entry is no Feature")
        classification = (feature.get("properties") or {}).get("classification") or {}
        name = classification.get("name") or "/".join(classification.get("names") or [])
        if feature.get("geometry") is not None:
            yield feature["geometry"], str(name)


def _region(path: Path, shapes: list[tuple[shapely.Geometry, str]]) -> shapely.Geometry:
    """The union of what counts, less the union of what is cut out; points and lines have no area and drop out."""
    kept: list[shapely.Geometry] = []
    cut: list[shapely.Geometry] = []
    for shape, name in shapes:
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise _error(path, "a coordinate is not a number", "export it again")
        name = name.strip().lower()
        if name in _EXCLUDED:
            cut.append(shapely.make_valid(shape))
        elif not name.endswith("*"):
            kept.append(shapely.make_valid(shape))
    region = shapely.difference(shapely.union_all(kept), shapely.union_all(cut))
    return shapely.union_all([part for part in shapely.get_parts(region) if part.area > 0])


def _check_size(path: Path) -> None:
    if path.stat().st_size > _MAX_VECTOR_BYTES:
        raise _error(path, f"larger than {_MAX_VECTOR_BYTES >> 20} MiB", "export the annotations without the detections")


def _error(path: Path, what: str, remedy: str) -> SlideError:
    return SlideError(f"{path}: {what}", remedy, stage="annotation")
