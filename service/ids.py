"""Ids of jobs, predictions, uploads and slides: 128 random or keyed bits, 32 hexadecimal digits."""

from __future__ import annotations

import re
import uuid

__all__ = ["is_id", "new_id"]


def new_id() -> str:
    """An id that nobody has or guesses."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id; only what has it may become a part of a path or a query."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None
