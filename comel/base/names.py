"""Names that look the same but differ: Unicode forms, spaces, invisible characters, letter case, numbers."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

__all__ = ["composed", "existing", "look", "same_text", "shown_pair", "similar", "without_invisible"]

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters in Unicode's view, but invisible to a reader."""


def without_invisible(text: str) -> str:
    """The text without invisible characters, such as zero-width spaces, soft hyphens and byte-order marks."""
    return "".join(sign for sign in text if not _is_invisible(sign))


def look(text: str) -> str:
    """A name as a reader sees it: equal for names that are easily mistaken for one another.

    Letter case, Unicode forms (including full-width), the number and kind of spaces and invisible characters do not count; a
    number counts by its value: ``1``, ``01`` and ``1.0``.
    """
    seen = without_invisible(unicodedata.normalize("NFKC", text))
    seen = unicodedata.normalize("NFKC", " ".join(seen.split()).casefold())
    if not _NUMBER.fullmatch(seen):
        return seen
    sign = "-" if seen.startswith("-") else ""
    whole, _, rest = seen.lstrip("+-").partition(".")
    digits = [str(unicodedata.digit(digit)) for digit in whole]
    whole, rest = "".join(digits).lstrip("0") or "0", "".join(str(unicodedata.digit(digit)) for digit in rest).rstrip("0")
    return f"{sign}{whole}.{rest}" if rest else f"{sign}{whole}"


def similar(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that :func:`look` the same: each name with the first one that it looks like."""
    first: dict[str, str] = {}
    pairs = []
    for name in dict.fromkeys(names):
        if (other := first.setdefault(look(name), name)) != name:
            pairs.append((other, name))
    return pairs


def shown_pair(one: str, other: str) -> tuple[str, str]:
    """Two names in quotes; if they then look the same, with invisible characters escaped."""
    if one.isprintable() and other.isprintable() and composed(one) != composed(other):
        return f"'{one}'", f"'{other}'"
    return ascii(one), ascii(other)


def composed(text: str) -> str:
    """The text in the Unicode form NFC, in which most programs write names."""
    return unicodedata.normalize("NFC", text)


def same_text(one: str, other: str) -> bool:
    """Whether two texts have the same letters, composed or not: NFC and NFD count as equal."""
    return one == other or composed(one) == composed(other)


def existing(path: Path) -> Path:
    """The file or folder under a path whose names may be written in another Unicode form; the path itself if there is none.

    macOS tools write names decomposed (NFD), most others composed (NFC). An exact match is preferred; if two others
    match, there is none.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        there = found / part
        if not part.isascii() and not os.path.lexists(there):
            try:
                others = [name for name in (one.name for one in found.iterdir()) if same_text(name, part)]
            except OSError:
                return path
            if len(others) != 1:
                return path
            there = found / others[0]
        found = there
    return found if os.path.lexists(found) else path


def _is_invisible(sign: str) -> bool:
    if unicodedata.category(sign) in ("Cf", "Cc"):
        return not sign.isspace()
    return "\ufe00" <= sign <= "\ufe0f" or sign in _BLANK_LETTERS
