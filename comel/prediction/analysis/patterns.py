"""Patterns of heads: their maps of attention around a tile, in two dimensions and in groups that are alike."""

from __future__ import annotations

import numpy as np

__all__ = ["group_patterns", "place_patterns"]

_FEWEST, _MOST_GROUPS = 4, 8


def place_patterns(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of maps that are divided by their sums.

    Args:
        maps: (n, ...) not negative, n at least 2.

    Returns:
        (n, 2) scores, of which signs are arbitrary, and the share of the variance that each explains (2,).
    """
    flat = maps.reshape(len(maps), -1)
    flat = flat / np.maximum(flat.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    centred = flat - flat.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    total = max(float((sizes**2).sum()), np.finfo(float).tiny)
    scores, shares = np.zeros((len(maps), 2)), np.zeros(2)
    for axis in range(min(2, len(sizes))):
        scores[:, axis], shares[axis] = left[:, axis] * sizes[axis], sizes[axis] ** 2 / total
    return scores, shares


def group_patterns(maps: np.ndarray, seed: int = 0) -> np.ndarray:
    """Groups of maps that are alike, by k-means on maps divided by their sums; k from 2 to 8 by the silhouette.

    Args:
        maps: (n, ...) not negative.
        seed: of the k-means.

    Returns:
        (n,) the group of each; all 0 for fewer than 4 maps, or where all are the same.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    flat = maps.reshape(len(maps), -1)
    flat = flat / np.maximum(flat.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    distinct = len(np.unique(flat.round(12), axis=0))
    if len(maps) < _FEWEST or distinct < 2:
        return np.zeros(len(maps), dtype=np.int64)
    best: tuple[float, np.ndarray] | None = None
    for number in range(2, min(_MOST_GROUPS, distinct, len(maps) - 1) + 1):
        groups = KMeans(number, n_init=10, random_state=seed).fit_predict(flat)
        score = float(silhouette_score(flat, groups))
        if best is None or score > best[0]:
            best = score, groups
    assert best is not None
    return best[1].astype(np.int64)
