"""Small slides with known content, and an encoder whose features are known: what the tests of this folder share."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pipelines.patch_encoders.base import PatchEncoder
from pipelines.slides.slide import Slide
from pipelines.tiles.plan import TilePlan

STAIN = (170, 80, 160)
GLASS = (243, 243, 243)


class MeanColour(PatchEncoder):
    """Mean colour of a tile's four quadrants: quick, and what it must give is known."""

    def __init__(self, name: str = "mean-colour", weights_hash: str = "0" * 64) -> None:
        self.name, self.weights_hash = name, weights_hash
        self.dimension, self.input_size, self.device, self.recipe = 12, 0, "cpu", "quadrant means / 255"
        self.encoded = 0

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        self.encoded += len(tiles)
        half = tiles.shape[1] // 2
        quadrants = [tiles[:, y : y + half, x : x + half].mean(axis=(1, 2)) for y in (0, half) for x in (0, half)]
        return (np.concatenate(quadrants, axis=1) / 255).astype(np.float32)


def write_slide(
    path: Path, pixels: np.ndarray, *, mpp: float | tuple[float, float] | None = 0.5, unit: str = "CENTIMETER", levels: int = 1
) -> Path:
    """A tiled TIFF as scanners export it; each further level averages two by two pixels."""
    resolution: dict[str, Any] = {}
    if mpp is not None:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        per_unit = 10_000 if unit == "CENTIMETER" else 25_400
        resolution = {"resolution": (per_unit / x, per_unit / y), "resolutionunit": unit}
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            scaled: dict[str, Any] = {
                k: tuple(r / 2**level for r in v) if k == "resolution" else v for k, v in resolution.items()
            }
            tiff.write(
                pixels,
                tile=(256, 256),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                metadata=None,
                **scaled,
            )
            height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
            blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
            pixels = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    return path


def tissue_picture(width: int, height: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Stained boxes (left, top, right, bottom) with a little texture on clean glass, (height, width, 3) uint8."""
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    noise = np.random.default_rng(0).integers(-12, 13, (height, width, 1))
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = np.clip(np.array(STAIN) + noise[top:bottom, left:right], 0, 255)
    return pixels


def write_manifest(path: Path, slides: dict[str, Path], **columns: dict[str, str]) -> Path:
    """A manifest of one task and label; ``columns`` maps a column to its values by slide."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "path", "label", "task", *columns])
        for slide_id, slide in slides.items():
            writer.writerow([slide_id, slide, "tumour", "organ", *(column.get(slide_id, "") for column in columns.values())])
    return path


def read_tile(slide: Slide, plan: TilePlan, index: int) -> np.ndarray:
    """One planned tile, (tile_size, tile_size, 3) uint8 RGB, by a read of OpenSlide's own: what decoded tiles must equal.

    On coarser levels OpenSlide starts at a whole level-0 pixel, so there they may differ by up to half of one.
    """
    x, y = plan.coords[index]
    downsample = slide.level_downsamples[plan.level]
    left, top = x / downsample, y / downsample
    right, bottom = left + plan.geometry.tile_width / downsample, top + plan.geometry.tile_height / downsample
    size = plan.geometry.patch_size
    return np.asarray(slide.read_area(plan.level, (left, top, right, bottom), (size, size)))
