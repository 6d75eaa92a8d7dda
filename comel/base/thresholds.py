"""Which tiles a threshold marks."""

from __future__ import annotations

import numpy as np

__all__ = ["all_equal", "from_threshold"]

_SAME = 1e-6
"""Scores closer than this differ by rounding alone."""


def all_equal(scores: np.ndarray) -> bool:
    """Whether a bag's scores (N,) tell no tile from another: there are several, and they are equal but for rounding."""
    return len(scores) > 1 and float(np.ptp(scores)) <= _SAME


def from_threshold(scores: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool: which tiles of a bag a threshold marks: those that score at least as much, compared as float32.

    Scores that are :func:`all_equal` say nothing of where anything lies, so no tile is marked, wherever the threshold happens
    to be. A threshold of 0 asks for every tile.
    """
    if threshold > 0 and all_equal(scores):
        return np.zeros(len(scores), dtype=bool)
    return np.asarray(scores, np.float32) >= np.float32(threshold)
