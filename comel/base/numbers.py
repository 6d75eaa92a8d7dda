"""Numbers that settings must not contain: infinity, NaN, integers beyond 64 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["MOST_SEED", "beyond_range"]

MOST_SEED = 2**32 - 1
"""The largest seed that every library accepts; scikit-learn's has 32 bits."""
_MOST = 2**63 - 1


def beyond_range(value: Any) -> tuple[list[str], int | float] | None:
    """The first number in settings that is not finite or has more than 64 bits, with its keys; None if there is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return ([], value) if abs(value) > _MOST else None
    if isinstance(value, float):
        return None if math.isfinite(value) else ([], value)
    if isinstance(value, BaseModel):
        value = dict(value)
    inner = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, (list, tuple)) else {}
    for key, one in inner.items():
        if (found := beyond_range(one)) is not None:
            return [str(key), *found[0]], found[1]
    return None
