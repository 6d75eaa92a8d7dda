"""Where the tiles of a drawn slide lie: pieces of tissue with ragged edges and holes."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["draw_tissue"]

_SHARE = 0.45
_TILE = 256


def draw_tissue(count: int, seed: int = 0) -> np.ndarray:
    """Corners (x, y) of ``count`` tiles of 256 level-0 pixels, row by row, (count, 2) int64.

    A smooth random field over a square is cut where it is highest, so that tissue covers about 45 % of the square in pieces
    whose size grows with the slide.

    Args:
        count: tiles, at least 1.
        seed: of the field.
    """
    side = int(np.ceil(np.sqrt(count / _SHARE))) + 1
    generator = np.random.default_rng(seed)
    field = gaussian_filter(generator.normal(size=(side, side)), sigma=max(1.0, side / 12), mode="nearest")
    field = field / field.std() + 0.3 * gaussian_filter(generator.normal(size=(side, side)), sigma=1.0) / 0.28
    highest = np.sort(np.argpartition(field.ravel(), -count)[-count:])
    return np.stack([highest % side, highest // side], axis=1).astype(np.int64) * _TILE
