"""XML files of ASAP and of Aperio ImageScope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from pipelines.annotations.problems import annotation_error
from pipelines.annotations.vector import MarkedArea, check_size, marked_areas

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["read_xml"]

_IMAGESCOPE_ELLIPSE = "2"


def read_xml(path: Path) -> list[MarkedArea]:
    """The areas of an ASAP or an ImageScope file; a group or layer is a class.

    Raises:
        SlideError: the file is damaged, of another kind, or too large (stage "annotation").
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    check_size(path)
    try:
        root = parse(path, forbid_dtd=True).getroot()
        if root.tag == "ASAP_Annotations":
            shapes = _asap_shapes(root)
        elif root.tag == "Annotations":
            shapes = list(_imagescope_shapes(root))
        else:
            raise annotation_error(
                path,
                f"its root is '{root.tag}', neither ASAP_Annotations nor ImageScope's Annotations",
                "export it from ASAP or ImageScope",
            )
    except (ParseError, DefusedXmlException, ValueError, shapely.errors.ShapelyError) as error:
        raise annotation_error(path, f"not a usable ASAP or ImageScope file ({error})", "export it again") from None
    return marked_areas(path, shapes)


def _asap_shapes(root: Element) -> list[tuple[shapely.Geometry, str]]:
    """(polygon, group) of each annotation.

    ASAP puts annotations without a group under ``None``: that only matters beside other groups, and is then cut out.
    """
    shapes = []
    for entry in root.iter("Annotation"):
        if entry.get("Type") not in ("Dot", "PointSet", "Measurement"):
            points = [(int(node.get("Order", 0)), *_point(node)) for node in entry.iter("Coordinate")]
            outline = _polygon([point[1:] for point in sorted(points, key=itemgetter(0))])
            shapes.append((outline, entry.get("PartOfGroup", "")))
    grouped = any(group.strip().lower() != "none" for _, group in shapes)
    return shapes if grouped else [(outline, "") for outline, _ in shapes]


def _imagescope_shapes(root: Element) -> Iterator[tuple[shapely.Geometry, str]]:
    """(area, layer's name) of each region; a negative one is a hole. Arrows and rulers, of two points, have no area."""
    for layer in root.iter("Annotation"):
        described = (
            node.get("Value", "") for node in layer.iterfind("Attributes/Attribute") if node.get("Name") == "Description"
        )
        name = layer.get("Name") or next(described, "")
        for region in layer.iter("Region"):
            points = [_point(node) for node in region.iter("Vertex")]
            is_ellipse = region.get("Type") == _IMAGESCOPE_ELLIPSE and 2 <= len(points) <= 4
            shape = _ellipse(points) if is_ellipse else _polygon(points)
            yield shape, "hole" if region.get("NegativeROA") == "1" else name


def _point(node: Element) -> tuple[float, float]:
    """X and Y of a node; in locales with a decimal comma ASAP writes one."""
    x, y = (float(node.get(axis, "").replace(",", ".")) for axis in ("X", "Y"))
    return x, y


def _polygon(points: Sequence[tuple[float, ...]]) -> shapely.Geometry:
    return shapely.Polygon(points) if len(points) >= 3 else shapely.Polygon()


def _ellipse(points: Sequence[tuple[float, ...]]) -> shapely.Geometry:
    """The ellipse that touches the sides of the points' bounding box, whether they are its corners or the points of contact."""
    corners = np.array(points)
    centre, half = (corners.max(axis=0) + corners.min(axis=0)) / 2, np.ptp(corners, axis=0) / 2
    angles = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    return shapely.Polygon(centre + half * np.stack([np.cos(angles), np.sin(angles)], axis=1))
