"""A patch encoder of your own: how much light each colour of a tile takes away, as histograms.

    comel synth slides --organs colon --slides 4 --size 1024
    comel extract slides/manifest.csv --out bags --encoder own_encoder.py:DensityHistogram

No network and no weights, so that it runs anywhere and shows the whole contract. In place of ``encode`` call your network; the
features are frozen, so nothing here is trained.
"""

from __future__ import annotations

import hashlib

import numpy as np

BINS = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.3, 2.0, 6.0])
"""Limits of the optical density."""


class DensityHistogram:
    """Shares of a tile's pixels by optical density in red, green and blue.

    Attributes:
        name: stands in every bag; features of different encoders are never mixed.
        dimension: length of a feature vector.
        weights_hash: what decides the features, so that bags of other weights are told apart; here the bins.
        recipe: in words; when it changes, slides are extracted again.
        mpp: micrometres per pixel that it is meant for; any other scale gives a warning.
    """

    name = "density-histogram"
    dimension = 3 * (len(BINS) - 1)
    weights_hash = hashlib.sha256(BINS.tobytes()).hexdigest()
    recipe = "optical density -log10((v + 1) / 256), histogram of each colour"
    mpp = (0.5, 1.0)

    def __init__(self, device: str) -> None:
        """``device`` is the torch device that the user chose; an encoder without a network needs none."""

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Tiles (n, height, width, 3) uint8 -> features (n, dimension) float32."""
        density = -np.log10((np.arange(256) + 1) / 256)  # of each value that a pixel can have
        bin_of = np.digitize(density, BINS[1:-1])  # (256,)
        bins = bin_of[tiles].reshape(len(tiles), -1, 3)  # (n, pixels, 3)
        shares = [(bins == number).mean(axis=1) for number in range(len(BINS) - 1)]  # each (n, 3)
        return np.concatenate(shares, axis=1).astype(np.float32)
