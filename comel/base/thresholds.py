"""Which tiles a threshold marks."""

from __future__ import annotations

import numpy as np

__all__ = ["all_equal", "from_threshold"]

_SAME = 1e-6
"""Scores closer than this differ only by rounding."""


def all_equal(scores: np.ndarray) -> bool:
    """Whether a bag's scores (N,) do not distinguish any tiles: there are several, equal up to rounding."""
    return len(scores) > 1 and float(np.ptp(scores)) <= _SAME


def from_threshold(scores: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool: the tiles of a bag that score at least the threshold, compared as float32.

    Scores that are :func:`all_equal` do not locate anything, so no tile is marked, wherever the threshold happens
    to be. A threshold of 0 marks every tile.
    """
    if threshold > 0 and all_equal(scores):
        return np.zeros(len(scores), dtype=bool)
    return np.asarray(scores, np.float32) >= np.float32(threshold)
