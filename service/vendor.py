"""The pages' libraries from npm: not in the sources; a built wheel includes them, and ``make viewer`` downloads them."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["vendored"]

_PACKAGE = Path(__file__).parent
_CARRIED = _PACKAGE / "viewer" / "vendor"
_CHECKOUT = _PACKAGE.parent


def vendored(name: str) -> Path | None:
    """The path of a library's file, by the names in ``package.json``; None if it was not downloaded."""
    if name in {path.name for path in _CARRIED.glob("*.*")}:
        return _CARRIED / name
    listed = _CHECKOUT / "package.json"
    if not listed.is_file():
        return None
    place = json.loads(listed.read_text(encoding="utf-8")).get("vendored", {}).get(name)
    path = _CHECKOUT / "node_modules" / str(place)
    return path if place is not None and path.is_file() else None
