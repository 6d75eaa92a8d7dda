"""Server paths, which clients must not see, and the names of folders being made or removed."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

__all__ = ["PARTIAL", "REMOVED", "UPLOADS", "bring_back", "remove_folder", "removed_id", "take_away", "without_paths"]

UPLOADS = "uploads"
PARTIAL = ".partial-"
"""Prefix of the name of something incomplete."""
REMOVED = ".removed-"
"""Prefix of the name of a folder being deleted."""


def without_paths(text: str, roots: Iterable[Path]) -> str:
    """``text`` without the server's folders, so that a file has the client's name.

    A relative root is cut only from the front of a longer path: by itself it may be an ordinary word.
    """
    forms = {form for path in roots for form in (path, path.absolute(), path.resolve()) if form.name}
    for root in sorted(forms, key=lambda form: len(str(form)), reverse=True):
        alone = r"|(?![\w.-])" if root.is_absolute() else ""
        text = re.sub(rf"(?<![\w./-]){re.escape(str(root))}(?:/(?:{UPLOADS}/[^/\s]+/)?{alone})", "", text)
    return text


def remove_folder(folder: Path) -> None:
    """Delete a folder; it is gone at once, however long its files take."""
    if (aside := take_away(folder)) is not None:
        shutil.rmtree(aside, ignore_errors=True)


def take_away(folder: Path) -> Path | None:
    """Rename a folder so that it is no longer found and the clean-up deletes it; None if there is no such folder."""
    aside = folder.with_name(f"{REMOVED}{folder.name}.{uuid.uuid4().hex}")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return None
    return aside


def bring_back(aside: Path) -> None:
    """Undo :func:`take_away`."""
    os.rename(aside, aside.with_name(removed_id(aside)))


def removed_id(aside: Path) -> str:
    """A folder's name before :func:`take_away`."""
    return aside.name.removeprefix(REMOVED).partition(".")[0]
