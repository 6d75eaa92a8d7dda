"""A file or folder that the system does not let be read, as an error with its remedy."""

from __future__ import annotations

from pathlib import Path

from comel.errors import SlideError

__all__ = ["unreadable"]


def unreadable(path: Path, error: OSError, *, stage: str = "open") -> SlideError:
    """Say of ``path`` that it cannot be read, and of which part of it that is so, where it is a part.

    Args:
        path: the slide, the annotation or the folder.
        error: what the system said.
        stage: see :class:`comel.errors.SlideError`.
    """
    part = "" if error.filename is None or Path(error.filename) == path else f": {error.filename}"
    denied = isinstance(error, PermissionError)
    remedy = "check its permissions and those of its folder" if denied else "check its path and its disk"
    return SlideError(f"{path}: cannot be read ({error.strerror or error}{part})", remedy, stage=stage)
