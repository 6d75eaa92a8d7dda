"""Units, ranges and names of number types that several rooms speak of: a length in the wrong unit shows in a signature."""

from __future__ import annotations

from typing import Literal, NewType

__all__ = ["MPP_RANGE", "Microns", "MicronsPerPixel", "Precision", "SlidePixels", "TilePixels"]

Microns = NewType("Microns", float)
"""A length on the glass, in micrometres."""

MicronsPerPixel = NewType("MicronsPerPixel", float)
"""The side of a pixel on the glass, in micrometres."""

SlidePixels = NewType("SlidePixels", int)
"""A length or a place on a slide, in pixels of level 0."""

TilePixels = NewType("TilePixels", int)
"""A length inside a tile as the encoder sees it, in pixels at the target resolution."""

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel that a light microscope's slide can have; a file that states 264 carries a screen's 96 dpi."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""The type of number that a network computes in; ``auto``: by the device."""
