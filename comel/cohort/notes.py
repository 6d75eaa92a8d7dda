"""Probable mistakes in a manifest: unused columns, and names that look alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from comel.base.names import shown_pair, similar
from comel.base.text import listed
from comel.cohort.manifest import OPTIONAL, REQUIRED, read_cells
from comel.errors import ManifestError

__all__ = ["alike", "manifest_notes"]

_NAMES = {"task": "tasks", "slide_id": "slides", "case_id": "cases", "patient_id": "patients", "site": "sites"}


def manifest_notes(path: Path) -> list[str]:
    """One line for the unused columns of a manifest, and one for each column whose names look alike.

    A manifest that cannot be read has no notes; reading it raises the error.
    """
    try:
        cells = read_cells(path)
    except ManifestError:
        return []
    unused = [name for name in cells if name not in REQUIRED + OPTIONAL]
    notes = []
    if unused:
        said = f"column {unused[0]} is" if len(unused) == 1 else f"columns {listed(unused, most=10)} are"
        notes.append(f"{path.name}: {said} not used")
    for column, what in _NAMES.items():
        notes += alike(f"{path.name} column {column}", what, cells.get(column, []))
    return notes


def alike(where: str, what: str, names: Iterable[str]) -> list[str]:
    """At most one line: different names that look the same to a reader (:func:`comel.base.names.look`)."""
    pairs = similar(names)
    if not pairs:
        return []
    more = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
    one, other = shown_pair(*pairs[0])
    return [f"{where}: {one} and {other} are two {what}{more}; correct the manifest if they are one"]
