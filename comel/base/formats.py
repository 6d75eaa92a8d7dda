"""The version of a file's format: an older one is read, and a newer one is called newer, not damaged."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from comel.errors import ComelError

__all__ = ["check_format"]

_SHOWN = 20


def check_format(path: Path, stated: object, known: int, writer: object, error: type[ComelError]) -> None:
    """Refuse a file of a format that this version does not know, before anything else of it is looked at.

    Args:
        path: the file, for the message.
        stated: the format that it says it has.
        known: the newest format that is read.
        writer: the version of comel that it says wrote it.
        error: what to raise.

    Raises:
        ComelError: of the class ``error``: the format is newer, or is none.
    """
    if type(stated) is not int or stated < 1:
        raise error(f"{path}: damaged (format {str(stated)[:_SHOWN]})", "restore it from a copy")
    if stated > known:
        raise error(
            f"{path}: written by comel {str(writer)[:_SHOWN]}, format {stated}",
            f"this is comel {metadata.version('comel')}, which reads format {known}: update comel",
        )
