"""Ids of jobs, predictions, uploads and slides: 128 random or keyed bits, 32 hexadecimal digits. And names given by people."""

from __future__ import annotations

import re
import unicodedata
import uuid

__all__ = ["EXAMPLE_ID", "EXAMPLE_SLIDE", "EXAMPLE_TIME", "EXAMPLE_UPLOAD", "ID_PATTERN", "is_id", "is_name", "new_id"]

ID_PATTERN = "^[0-9a-f]{32}$"
EXAMPLE_ID = "9f86d081884c4d659a2feaa0c55ad015"
EXAMPLE_TIME = "2026-03-01T09:30:00Z"
EXAMPLE_UPLOAD = "0cc175b9c0f1b6a831c399e269772661"
EXAMPLE_SLIDE = "5d41402abc4b2a76b9719d911017c592"

_UNREADABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def new_id() -> str:
    """A new id that cannot be guessed."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id; only such text may become part of a path or a query."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def is_name(text: str) -> bool:
    """Whether ``text`` can be shown as a name: any script, symbol and space, but no control characters, line breaks, bytes
    that are not text, or characters that reorder the rest."""
    return bool(text) and not any(letter in _REORDERING or unicodedata.category(letter) in _UNREADABLE for letter in text)
