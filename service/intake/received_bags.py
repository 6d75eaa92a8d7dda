"""Bags from outside: read, then refused where what they say cannot be true of a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from comel.bags.bag import Bag
from comel.errors import BagError
from service.ids import is_name

__all__ = ["read_received_bag"]

LONGEST_NAME = 255
LARGEST_COORDINATE = 2**40
LARGEST_SIDE = 2**24
LARGEST_FEATURE = 1e6
_REMEDY = "extract the slide again"


def read_received_bag(path: Path, *, assume_encoder: str | None) -> Bag:
    """Read a feature file that a client sent.

    Raises:
        BagError: it cannot be read, or its name, coordinates or features are such as no slide and no encoder has.
    """
    from comel.bags.foreign import read_any_bag

    try:
        bag = read_any_bag(path, assume_encoder=assume_encoder)
    except (ArithmeticError, RecursionError, UnicodeError) as error:
        # Attributes that are no numbers of a slide, or JSON nested without end.
        raise BagError(f"{path}: cannot be read ({type(error).__name__})", _REMEDY) from None
    if len(bag.slide_id) > LONGEST_NAME or not is_name(bag.slide_id):
        raise BagError(f"{path}: the slide's name is too long, or not text", _REMEDY)
    if bag.geometry is not None and max(bag.geometry.level0_width, bag.geometry.level0_height) > LARGEST_SIDE:
        raise BagError(f"{path}: a side of more than {LARGEST_SIDE} level-0 pixels, which no slide has", _REMEDY)
    if not len(bag):
        return bag
    if bag.coords is not None and max(-int(bag.coords.min()), int(bag.coords.max())) > LARGEST_COORDINATE:
        raise BagError(f"{path}: coords that lie on no slide", _REMEDY)
    # Far beyond any encoder, and far below where the model's sums would overflow.
    if np.maximum(-bag.features.min(), bag.features.max()) > LARGEST_FEATURE:
        raise BagError(f"{path}: features beyond {LARGEST_FEATURE:g}", _REMEDY)
    return bag
