"""How sharp a tile is, measured on its pixels while they are in memory for the encoder."""

from __future__ import annotations

import numpy as np

__all__ = ["MEASURED", "blurriness", "tile_quality"]

MEASURED = ("blur",)
"""The measurements of :func:`tile_quality`."""

_WINDOW = 9
_STEPS = 64  # of a grey level, so that means of small differences are not rounded away
_NOISE = 2 * _STEPS
_FLAT = 3.0
_SMALL = 0.01 * _STEPS


def tile_quality(tiles: np.ndarray) -> dict[str, np.ndarray]:
    """The measurements of a batch that need its pixels.

    Each tile is measured separately, so order and batch size have no effect.

    Args:
        tiles: (B, H, W, 3) uint8 RGB.

    Returns:
        ``blur``: (B,) float32 in 0..1, see :func:`blurriness`.
    """
    return {"blur": np.array([blurriness(tile) for tile in tiles], dtype=np.float32)}


def blurriness(tile: np.ndarray) -> float:
    """How blurred a tile is: near 0 if sharp, 1 without any fine detail.

    A sharp picture changes much when blurred again, a blurred one hardly. The differences between neighbouring
    pixels are summed before and after a mean over nine pixels along them; the remaining share is the result, the larger of the
    two directions (Crete et al. 2007, "The blur effect"). As a ratio it depends neither on contrast nor on stain.
    Differences of less than two grey levels count as noise. A tile of one tone, such as glass or mucus, says nothing about its
    focus: if the means vary by less than three grey levels, the result is 0.

    Args:
        tile: (H, W, 3) uint8 RGB.
    """
    import cv2

    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.uint16) * _STEPS
    down, across = cv2.blur(grey, (1, _WINDOW)), cv2.blur(grey, (_WINDOW, 1))
    if cv2.meanStdDev(cv2.blur(down, (_WINDOW, 1)))[1].item() < _FLAT * _STEPS:
        return 0.0
    found = 0.0
    for axis, blurred in ((0, down), (1, across)):
        sharp = np.maximum(_differences(grey, axis), _NOISE) - np.uint16(_NOISE)
        total = cv2.sumElems(sharp)[0]
        if total < _SMALL * sharp.size:
            return 1.0
        lost = cv2.subtract(sharp, _differences(blurred, axis))
        found = max(found, 1 - cv2.sumElems(lost)[0] / total)
    return found


def _differences(values: np.ndarray, axis: int) -> np.ndarray:
    import cv2

    return cv2.absdiff(values[1:], values[:-1]) if axis == 0 else cv2.absdiff(values[:, 1:], values[:, :-1])
