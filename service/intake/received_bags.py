"""Bags from outside: read, and refused if their name cannot be shown; the reader refuses impossible values."""

from __future__ import annotations

from pathlib import Path

from comel.bags.bag import Bag
from comel.errors import BagError, ComelError
from service.ids import is_name

__all__ = ["read_received_bag"]

LONGEST_NAME = 255
_REMEDY = "extract the slide again"


def read_received_bag(path: Path, *, assume_encoder: str | None) -> Bag:
    """Read a feature file that a client sent.

    Raises:
        BagError: it cannot be read, or its name, coordinates or features are impossible.
    """
    from comel.bags.foreign import read_any_bag

    try:
        bag = read_any_bag(path, assume_encoder=assume_encoder)
    except (ComelError, MemoryError, OSError):
        raise
    except Exception as error:
        # Attributes of wrong types, endlessly nested JSON: a file may contain anything.
        raise BagError(f"{path}: cannot be read ({type(error).__name__})", _REMEDY) from None
    if len(bag.slide_id) > LONGEST_NAME or not is_name(bag.slide_id):
        raise BagError(f"{path}: the slide's name is too long, or not text", _REMEDY)
    return bag
