"""Text for names, messages and tables: the first line of an error, a shortened list of names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["first_line", "is_text", "listed"]

_CONTROL = ("Cc", "Cs", "Zl", "Zp")


def is_text(value: str) -> bool:
    """Whether the text is free of control characters, line breaks and lone surrogates."""
    return value.isprintable() or not any(unicodedata.category(sign) in _CONTROL for sign in value)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message, cut to ``most`` characters, or the error's class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 4 more``: the first ``most`` names, and the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
