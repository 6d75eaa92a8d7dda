"""Annotation files as ASAP, ImageScope and QuPath write them: what the tests of this folder share."""

from __future__ import annotations

import json
from pathlib import Path

Ring = list[tuple[float, float]]


def square(left: float, top: float, right: float, bottom: float) -> Ring:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def asap(path: Path, *entries: tuple[str, Ring]) -> Path:
    text = "".join(
        f'<Annotation Name="a{number}" Type="Polygon" PartOfGroup="{group}"><Coordinates>'
        + "".join(f'<Coordinate Order="{order}" X="{x}" Y="{y}"/>' for order, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>"
        for number, (group, points) in enumerate(entries)
    )
    path.write_text(f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>')
    return path


def imagescope(path: Path, *layers: tuple[str, list[tuple[str, Ring]]]) -> Path:
    """An ImageScope file: (layer's attributes, [(region's attributes, vertices)])."""
    text = "".join(
        f'<Annotation Id="{number}" {layer}><Attributes/><Regions><RegionAttributeHeaders/>'
        + "".join(
            f'<Region Id="{index}" {attributes}><Vertices>'
            + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
            + "</Vertices></Region>"
            for index, (attributes, points) in enumerate(regions)
        )
        + "</Regions></Annotation>"
        for number, (layer, regions) in enumerate(layers, start=1)
    )
    path.write_text(f'<Annotations MicronsPerPixel="0.502">{text}</Annotations>')
    return path


def qupath(path: Path, *entries: tuple[str, list[Ring]]) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, rings in entries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
