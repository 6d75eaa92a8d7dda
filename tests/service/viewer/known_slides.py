"""Slides whose tumour is known to the pixel: a plain pyramid, and a Leica SCN whose scanned area is a part of the plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

TILE = 64
MPP = 0.5
TISSUE, TUMOUR, GLASS = (232, 178, 208), (96, 40, 120), (246, 246, 246)
AREA = (3072, 2304)
"""(width, height) of the scanned area in level-0 pixels."""


@dataclass(frozen=True)
class KnownSlide:
    """A slide file; lengths are level-0 pixels.

    Attributes:
        plane: (width, height) of level 0.
        bounds: (x, y, width, height) of the scanned area, None where it is the plane.
        tumour: (left, top, right, bottom); its edges lie on the grid of tiles.
    """

    path: Path
    plane: tuple[int, int]
    bounds: tuple[int, int, int, int] | None
    tumour: tuple[int, int, int, int]


def _picture() -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """(height, width, 3) of the scanned area: tissue on glass with a rectangular tumour in it, and the tumour's edges."""
    width, height = AREA
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    random = np.random.default_rng(0)
    tissue = (slice(4 * TILE, height - 4 * TILE), slice(4 * TILE, width - 4 * TILE))
    pixels[tissue] = np.array(TISSUE) + random.integers(-6, 7, (*pixels[tissue].shape[:2], 1))
    left, top, right, bottom = 12 * TILE, 10 * TILE, 26 * TILE, 20 * TILE
    tumour = (slice(top, bottom), slice(left, right))
    pixels[tumour] = np.array(TUMOUR) + random.integers(-6, 7, (*pixels[tumour].shape[:2], 1))
    return pixels, (left, top, right, bottom)


def _halved(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    half: np.ndarray = pixels.reshape(height, 2, width, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    return half


def write_plain_slide(path: Path) -> KnownSlide:
    """A tiled TIFF pyramid whose plane is the scanned area."""
    pixels, tumour = _picture()
    with tifffile.TiffWriter(path) as file:
        for level in range(3):
            file.write(
                pixels,
                tile=(256, 256),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                resolution=(10_000 / MPP / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            pixels = _halved(pixels)
    return KnownSlide(path, AREA, None, tumour)


def write_slide_with_bounds(path: Path) -> KnownSlide:
    """A Leica SCN: the plane is the glass, the scanned area a part of it, which OpenSlide states as the bounds."""
    pixels, tumour = _picture()
    shift, plane = (1280, 896), (5120, 3840)
    nanometres = MPP * 1000
    dimensions = "".join(
        f'<dimension r="{level}" ifd="{level}" sizeX="{AREA[0] >> level}" sizeY="{AREA[1] >> level}"/>' for level in range(3)
    )
    about = f"""<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">
<collection name="known" uuid="urn:uuid:2" sizeX="{plane[0] * nanometres:.0f}" sizeY="{plane[1] * nanometres:.0f}">
<barcode version="1.0.0"/><image name="area" uuid="urn:uuid:3">
<creationDate>2026-01-01T00:00:00.0Z</creationDate><device model="Leica SCN400" version="1.4"/>
<pixels sizeX="{AREA[0]}" sizeY="{AREA[1]}">{dimensions}</pixels>
<view sizeX="{AREA[0] * nanometres:.0f}" sizeY="{AREA[1] * nanometres:.0f}" offsetX="{shift[0] * nanometres:.0f}"
 offsetY="{shift[1] * nanometres:.0f}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image></collection></scn>"""
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(3):
            description = about if level == 0 else None
            file.write(
                pixels,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95},
                description=description,
                resolution=(10_000 / MPP / 2**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            pixels = _halved(pixels)
    left, top, right, bottom = tumour
    moved = (left + shift[0], top + shift[1], right + shift[0], bottom + shift[1])
    return KnownSlide(path, plane, (*shift, *AREA), moved)
