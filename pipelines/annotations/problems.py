"""What can be wrong with an annotation file."""

from __future__ import annotations

from pathlib import Path

from comel.errors import SlideError

__all__ = ["annotation_error"]


def annotation_error(path: Path, what: str, remedy: str) -> SlideError:
    return SlideError(f"{path}: {what}", remedy, stage="annotation")
