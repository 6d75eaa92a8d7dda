"""Random fields: smooth noise, fibres, and the outlines of tissue and tumour."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import fft, ndimage

__all__ = ["COARSE", "enlarge", "fibres", "smooth_noise", "tissue_field", "tumour_region"]

# Outlines and masks are made at an eighth of level 0, which is also the scale of the annotation.
COARSE = 8
# Fibres are a few pixels wide and drawn at a quarter.
_FIBRE_SCALE = 4


def smooth_noise(rng: np.random.Generator, size: int, wavelength: float) -> np.ndarray:
    """Band-limited noise, (size, size) float32, zero mean and about unit variance; ``wavelength`` in pixels."""
    span = size / wavelength
    count = int(np.ceil(span)) + 4
    knots = rng.standard_normal((count, count), dtype=np.float32) * 1.4
    box = (1.5, 1.5, 1.5 + span, 1.5 + span)
    return np.asarray(Image.fromarray(knots).resize((size, size), Image.Resampling.BICUBIC, box=box))


def enlarge(field: np.ndarray, size: int) -> np.ndarray:
    """A coarse float field at (size, size), bilinear."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def fibres(rng: np.random.Generator, size: int, pixels_per_um: float) -> np.ndarray:
    """Wavy fibre texture, (size, size) float32, zero mean and unit variance.

    White noise filtered along three directions, mixed by slowly varying weights and bent by a smooth displacement.
    """
    n = size // _FIBRE_SCALE
    pixels_per_um = pixels_per_um / _FIBRE_SCALE
    spectrum = fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    fy, fx = fft.fftfreq(n).astype(np.float32)[:, None], fft.rfftfreq(n).astype(np.float32)[None, :]
    length, width = 110 * pixels_per_um, 4.0 * pixels_per_um
    mixed, total = np.zeros((n, n), np.float32), np.zeros((n, n), np.float32)
    for angle in rng.uniform(0, np.pi) + np.arange(3) * np.pi / 3:
        along, across = fx * np.cos(angle) + fy * np.sin(angle), fx * np.sin(angle) - fy * np.cos(angle)
        field = fft.irfft2(spectrum * np.exp(-((along * length) ** 2) - (across * width) ** 2), s=(n, n))
        weight = np.exp(2.5 * smooth_noise(rng, n, 180 * pixels_per_um))
        mixed += weight * (field / field.std())
        total += weight
    mixed /= total
    bend = [smooth_noise(rng, n, 56 * pixels_per_um) * 6.0 * pixels_per_um for _ in range(2)]
    rows, columns = np.mgrid[:n, :n].astype(np.float32)
    bent = ndimage.map_coordinates(mixed, [rows + bend[0], columns + bend[1]], order=1, mode="reflect")
    return enlarge(bent / bent.std(), size)


def tissue_field(rng: np.random.Generator, size: int) -> np.ndarray:
    """A coarse field whose positive part is tissue: one irregular piece over about two thirds of the slide.

    Returns:
        (size / 8, size / 8) float32.
    """
    n = size // COARSE
    rows, columns = np.mgrid[:n, :n].astype(np.float32) / n - 0.5
    angle = rng.uniform(0, np.pi)
    centre = rng.normal(0, 0.03, 2)
    u = (columns - centre[0]) * np.cos(angle) + (rows - centre[1]) * np.sin(angle)
    v = (rows - centre[1]) * np.cos(angle) - (columns - centre[0]) * np.sin(angle)
    a, b = rng.uniform(0.42, 0.47), rng.uniform(0.36, 0.42)
    radius = (np.abs(u / a) ** 2.6 + np.abs(v / b) ** 2.6) ** (1 / 2.6)
    ragged = 0.10 * smooth_noise(rng, n, n / 3.2) + 0.035 * smooth_noise(rng, n, n / 11) + 0.012 * smooth_noise(rng, n, n / 40)
    field = 1 - radius + ragged
    piece: np.ndarray = np.where(_largest(field > 0), field, np.minimum(field, -0.02)).astype(np.float32)
    return piece


def tumour_region(rng: np.random.Generator, tissue: np.ndarray, fraction: float) -> np.ndarray:
    """One or two irregular regions that cover ``fraction`` of the tissue.

    Args:
        tissue: (n, n) bool, at an eighth of level 0.
        fraction: share of the tissue pixels.

    Returns:
        (n, n) bool, inside ``tissue``.
    """
    n = len(tissue)
    rows, columns = np.nonzero(ndimage.binary_erosion(tissue, iterations=max(1, n // 32)))
    if len(rows) == 0:
        rows, columns = np.nonzero(tissue)
    grid = np.mgrid[:n, :n].astype(np.float32)
    score = np.full((n, n), -np.inf, np.float32)
    for _ in range(1 if fraction < 0.12 else int(rng.integers(1, 3))):
        pick = int(rng.integers(len(rows)))
        stretch, angle = rng.uniform(1.0, 1.7), rng.uniform(0, np.pi)
        dy, dx = grid[0] - rows[pick], grid[1] - columns[pick]
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        score = np.maximum(score, -np.hypot(u / stretch, v * stretch) / n)
    ragged = 0.6 * np.sqrt(fraction)
    score += ragged * (0.16 * smooth_noise(rng, n, n / 5) + 0.06 * smooth_noise(rng, n, n / 16))
    count = max(1, round(fraction * int(tissue.sum())))
    threshold = np.partition(score[tissue], -count)[-count]
    region: np.ndarray = tissue & (score >= threshold)
    return region


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: np.ndarray = parts == sizes.argmax()
    return largest
