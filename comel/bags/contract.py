"""The feature contract: how the features of a bag were made, and which bags may be mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["EXTRACTION_FIELDS", "FeatureContract", "extraction_of"]


EXTRACTION_FIELDS = (
    "tissue",
    "min_tissue",
    "ink",
    "max_pen",
    "max_fold",
    "overlap",
    "stain_normalisation",
    "stain_reference",
    "dtype",
)
"""The extraction settings needed to read a new slide in the same way as the training slides."""


@dataclass(frozen=True)
class FeatureContract:
    """How features were made; two bags may be mixed only if these agree.

    Attributes:
        encoder: the patch encoder's name, or None if the file does not state it.
        weights_hash: SHA-256 of the encoder's weights, or None if the file does not state it.
        dimension: length of a feature vector.
        mpp: micrometres per pixel of the tiles as encoded, or None if the file does not state it.
        tile_size: tile side in pixels at ``mpp``, or None if the file does not state it.
        reading: how slides were read: the settings in :data:`EXTRACTION_FIELDS` that the file states.
        joined_mpp: micrometres per pixel of the coarser scales whose features are appended to each tile's own, finest first.
        code_sha256: SHA-256 of the encoder's own code file, or None if the encoder is built in or the bag does not
            state it. It says which file may be run for the model; bags are not compared by it.
    """

    encoder: str | None
    weights_hash: str | None
    dimension: int
    mpp: float | None
    tile_size: int | None
    reading: Mapping[str, Any] = field(default_factory=dict)
    joined_mpp: tuple[float, ...] = ()
    code_sha256: str | None = None

    def __post_init__(self) -> None:
        # JSON and HDF5 return it as a list or an array.
        object.__setattr__(self, "joined_mpp", tuple(map(float, self.joined_mpp)))

    def difference(self, other: FeatureContract) -> str | None:
        """Describe how ``other`` differs, or None if both match.

        Names, joined scales and dimensions must be equal. Hash, mpp, tile size and stain normalisation are compared only
        if both are known; mpp within 1 %. The rest of :attr:`reading` decides which tiles there are, not what their
        features mean.
        """
        if not _same_scales(self.joined_mpp, other.joined_mpp):
            return f"features of {_joined(other.joined_mpp)} instead of {_joined(self.joined_mpp)}"
        if self.dimension != other.dimension:
            return f"features of dimension {other.dimension} instead of {self.dimension}"
        if self.encoder != other.encoder:
            return f"encoder {other.encoder or 'not stated'} instead of {self.encoder or 'not stated'}"
        if self.weights_hash and other.weights_hash and self.weights_hash != other.weights_hash:
            return f"other weights of {self.encoder} ({other.weights_hash[:12]} instead of {self.weights_hash[:12]})"
        if self.mpp and other.mpp and abs(other.mpp - self.mpp) > 0.01 * self.mpp:
            return f"tiles at {other.mpp:g} um/px instead of {self.mpp:g}"
        if self.tile_size and other.tile_size and self.tile_size != other.tile_size:
            return f"tiles of {other.tile_size} px instead of {self.tile_size}"
        own, others = (contract.reading.get("stain_normalisation") for contract in (self, other))
        if own and others and own != others:
            return f"stain normalisation {others} instead of {own}"
        if own and others and self.reading.get("stain_reference") != other.reading.get("stain_reference"):
            return "stains normalised to another reference"
        return None


def extraction_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in :data:`EXTRACTION_FIELDS` that an extraction's settings hold."""
    return {name: settings[name] for name in EXTRACTION_FIELDS if name in settings}


def _same_scales(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=0.01, atol=0))


def _joined(scales: tuple[float, ...]) -> str:
    return f"each tile and its parents at {', '.join(f'{mpp:g}' for mpp in scales)} um/px" if scales else "each tile alone"
