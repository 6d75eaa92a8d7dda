"""Free-response ROC: the share of lesions found at a given number of false alarms per slide.

A lesion is a connected group of positive tiles; a detection is a connected group of tiles whose score reaches a threshold, at
the place and with the score of its strongest tile. Tiles are connected with the eight around them. The six rates of false
alarms are those of CAMELYON16 (Ehteshami Bejnordi et al., JAMA 318:2199, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from comel.bags.geometry import tile_spacing
from comel.base.thresholds import from_threshold

__all__ = ["FALSE_ALARMS", "connected_tiles", "froc"]

FALSE_ALARMS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def froc(
    scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], coords: Sequence[np.ndarray], *, threshold: float
) -> dict[float, float] | None:
    """The share of lesions found at no more than each number of false positive detections per slide.

    Several detections of one lesion count once, with the strongest. A detection on a tile of unknown label counts nowhere.
    Between two points of the curve the lower one is used; the challenge's script interpolates.

    Args:
        scores: one (N,) array per slide, including negative slides for their false alarms.
        labels: one (N,) array per slide: 1 positive, 0 negative, -1 unknown.
        coords: one (N, 2) array per slide, tile corners in level-0 pixels.
        threshold: tiles with at least this score form detections.

    Returns:
        ``{false positives per slide: sensitivity}`` at 1/4, 1/2, 1, 2, 4 and 8, or None if there is no lesion.
    """
    found: list[float] = []
    alarms: list[float] = []
    for one, truth, places in zip(scores, labels, coords, strict=True):
        step = tile_spacing(places)
        lesion_of = connected_tiles(places, truth == 1, step)
        best = np.full(lesion_of.max(initial=-1) + 1, -np.inf)
        detection_of = connected_tiles(places, from_threshold(one, threshold), step)
        for detection in range(detection_of.max(initial=-1) + 1):
            tiles = np.flatnonzero(detection_of == detection)
            peak = tiles[np.argmax(one[tiles])]
            if truth[peak] == 1:
                best[lesion_of[peak]] = max(best[lesion_of[peak]], one[peak])
            elif truth[peak] == 0:
                alarms.append(float(one[peak]))
        found += best.tolist()
    if not found:
        return None
    alarms.sort(reverse=True)
    sensitivity = {}
    for rate in FALSE_ALARMS:
        allowed = int(rate * len(scores))
        above = alarms[allowed] if allowed < len(alarms) else -np.inf
        sensitivity[rate] = float((np.array(found) > above).mean())
    return sensitivity


def connected_tiles(coords: np.ndarray, chosen: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The number of the connected group of each chosen tile, from 0; -1 for the others.

    Args:
        coords: (N, 2) tile corners.
        chosen: (N,) bool.
        step: (2,) distance of neighbouring tiles along x and y in the units of ``coords``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    group = np.full(len(coords), -1)
    count = int(chosen.sum())
    if count:
        pairs = cKDTree(coords[chosen] / step).query_pairs(1.5, p=np.inf, output_type="ndarray")
        graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        group[chosen] = connected_components(graph, directed=False)[1]
    return group
