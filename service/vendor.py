"""What the pages need from npm: none of it is in the sources, a built wheel carries it, and ``make viewer`` fetches it."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["vendored"]

_PACKAGE = Path(__file__).parent
_CARRIED = _PACKAGE / "viewer" / "vendor"
_CHECKOUT = _PACKAGE.parent


def vendored(name: str) -> Path | None:
    """Where a library's file lies, by the names that ``package.json`` gives them; None if it was not fetched."""
    if name in {path.name for path in _CARRIED.glob("*.*")}:
        return _CARRIED / name
    listed = _CHECKOUT / "package.json"
    if not listed.is_file():
        return None
    place = json.loads(listed.read_text(encoding="utf-8")).get("vendored", {}).get(name)
    path = _CHECKOUT / "node_modules" / str(place)
    return path if place is not None and path.is_file() else None
