"""Text that may stand in a name, a message or a table."""

from __future__ import annotations

import unicodedata

__all__ = ["first_line", "is_text"]

_CONTROL = ("Cc", "Cs", "Zl", "Zp")


def is_text(value: str) -> bool:
    """Whether it holds no control character, line break or half of a surrogate pair."""
    return value.isprintable() or not any(unicodedata.category(sign) in _CONTROL for sign in value)


def first_line(error: BaseException, most: int = 200) -> str:
    """What an error says, cut to its first line; the error's kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
