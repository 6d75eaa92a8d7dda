"""Units, ranges, modes and number types that several packages share: a length in the wrong unit shows in a signature."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NewType

__all__ = ["MPP_RANGE", "Microns", "MicronsPerPixel", "Mode", "Precision", "SlidePixels", "TilePixels"]

Microns = NewType("Microns", float)
"""A length on the glass, in micrometres."""

MicronsPerPixel = NewType("MicronsPerPixel", float)
"""The side of a pixel on the glass, in micrometres."""

SlidePixels = NewType("SlidePixels", int)
"""A length or a place on a slide, in pixels of level 0."""

TilePixels = NewType("TilePixels", int)
"""A length inside a tile as the encoder sees it, in pixels at the target resolution."""

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel that a light microscope's slide can have; a file that states 264 has a screen's 96 dpi."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""The type of number that a network computes in; ``auto``: chosen by the device."""


class Mode(StrEnum):
    """What a model is asked, as written in settings, versions, predictions and tables of scores.

    A run is trained class-incrementally or domain-incrementally. A class-incremental run also answers with the task given.
    """

    CLASS = "class-incremental"
    """Which of the classes of all tasks; the task is not known."""
    TASK = "task-incremental"
    """Which of the given task's classes."""
    DOMAIN = "domain-incremental"
    """Which of the classes that all tasks share; the task plays no part."""

    def __repr__(self) -> str:
        """As a user writes it; pydantic's messages show this form."""
        return repr(self.value)

    @property
    def key(self) -> str:
        """The mode as a key of JSON answers, ``class_incremental``."""
        return self.value.replace("-", "_")
