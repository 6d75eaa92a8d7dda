"""The appearance of tiles to the encoder: as scanned, normalised to a reference's staining, or shifted to another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.extraction.settings import ExtractSettings
from pipelines.slides.slide import Slide
from pipelines.stain.matrix import drawn_shift, restain
from pipelines.stain.normalisation import measure_staining, normaliser
from pipelines.tiles.decode import decoded_batches
from pipelines.tiles.plan import TilePlan

__all__ = ["tile_appearance"]

_SAMPLED_TILES = 32
_SAMPLED_PIXELS = 1 << 17
_BATCH_TILES = 8


def tile_appearance(
    slide: Slide, plan: TilePlan, settings: ExtractSettings, slide_id: str
) -> Callable[[np.ndarray], np.ndarray]:
    """The function applied to a slide's tiles (B, H, W, 3) uint8 RGB before encoding; the same for every tile.

    Args:
        slide: read if its staining must be measured, on 32 tiles spread evenly over the plan.
        plan: its tiles.
        settings: ``stain_normalisation``, ``stain_reference`` and ``stain``.
        slide_id: the seed of the random shift.

    Raises:
        SlideError: the slide's staining cannot be measured (stage "stain"), or a tile cannot be read.
    """
    steps: list[Callable[[np.ndarray], np.ndarray]] = []
    if settings.stain_reference is not None and len(plan.coords):
        chosen = np.zeros(len(plan.coords), bool)
        chosen[np.linspace(0, len(chosen) - 1, _SAMPLED_TILES).round().astype(int)] = True
        step = max(1, int((chosen.sum() * plan.geometry.patch_size**2 / _SAMPLED_PIXELS) ** 0.5))
        batches = decoded_batches(slide, plan.only(chosen), _BATCH_TILES)
        pixels = np.concatenate([tiles[:, ::step, ::step].reshape(-1, 3) for tiles in batches])
        steps.append(normaliser(measure_staining(pixels, settings.stain_reference.method, slide_id), settings.stain_reference))
    if settings.stain != "as-scanned":
        shift = drawn_shift(slide_id) if settings.stain == "random" else (settings.stain,)
        steps.append(lambda tiles: restain(tiles, *shift))

    def appearance(tiles: np.ndarray) -> np.ndarray:
        for step in steps:
            tiles = step(tiles)
        return tiles

    return appearance
