"""The version of a file's format: an older one is read, and a newer one is reported as newer, not damaged."""

from __future__ import annotations

from pathlib import Path

from comel.base.version import comel_version
from comel.errors import ComelError

__all__ = ["check_format"]

_SHOWN = 20


def check_format(path: Path, stated: object, known: int, writer: object, error: type[ComelError]) -> None:
    """Refuse a file whose format this version does not know, before anything else in it is checked.

    Args:
        path: the file, for the message.
        stated: the format that the file states.
        known: the newest format that can be read.
        writer: the version of comel that the file states as its writer.
        error: the class of error to raise.

    Raises:
        ComelError: of the class ``error``: the format is newer, or not a format.
    """
    if type(stated) is not int or stated < 1:
        raise error(f"{path}: damaged (format {str(stated)[:_SHOWN]})", "restore it from a copy")
    if stated > known:
        raise error(
            f"{path}: written by comel {str(writer)[:_SHOWN]}, format {stated}",
            f"this is comel {comel_version()}, which reads format {known}: update comel",
        )
