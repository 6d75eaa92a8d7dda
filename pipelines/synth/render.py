"""One synthetic slide: outlines, tissue, look-alikes, stain and light."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from pipelines.synth import colon, kidney, liver, lymph_node
from pipelines.synth.canvas import Canvas
from pipelines.synth.fields import COARSE, enlarge, fibres, smooth_noise, tissue_field, tumour_region
from pipelines.synth.kinds import LYMPHOCYTE, PLASMA
from pipelines.synth.settings import SynthSettings

__all__ = ["RenderedSlide", "render_slide"]

_ORGANS: dict[str, ModuleType] = {"colon": colon, "kidney": kidney, "liver": liver, "lymph_node": lymph_node}

# Optical density of red, green and blue for one unit of haematoxylin and of eosin, near those measured on H&E slides
# (Macenko et al. 2009), and for each organ how strongly its laboratory stains with either.
_HAEMATOXYLIN = np.array([0.60, 0.74, 0.36])
_EOSIN = np.array([0.19, 0.84, 0.44])
_STRENGTH = {"colon": (1.0, 0.95), "kidney": (0.95, 1.1), "liver": (0.92, 1.05), "lymph_node": (1.08, 0.9)}


@dataclass(frozen=True)
class RenderedSlide:
    """A slide's pixels and what they show.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        tissue: (size / 8, size / 8) bool.
        tumour: (size / 8, size / 8) bool, empty on a normal slide.
    """

    image: np.ndarray
    tissue: np.ndarray
    tumour: np.ndarray


def render_slide(settings: SynthSettings, organ: str, index: int) -> RenderedSlide:
    """Draw slide ``index`` of an organ; slides with an odd index have a tumour.

    The random numbers come from (seed, organ, index) alone, so a slide is the same however many others are made.
    """
    rng = np.random.default_rng([settings.seed, index, *organ.encode()])
    field = tissue_field(rng, settings.size)
    tissue = field > 0
    tumour = np.zeros_like(tissue)
    if index % 2:
        tumour = tumour_region(rng, tissue, rng.uniform(*settings.tumour_fraction))
    canvas = Canvas(
        rng,
        size=settings.size,
        mpp=settings.mpp,
        tissue=tissue,
        tumour=tumour,
        grade=rng.uniform(0.85 - 0.7 * settings.difficulty, 1.0 - 0.1 * settings.difficulty),
        reactive=rng.uniform(0.97, 1.06) * (1 + 0.16 * settings.difficulty * (rng.random() < 0.5)),
        stroma=_ORGANS[organ].STROMA,
    )
    _ORGANS[organ].paint(canvas)
    if rng.random() < 0.45:
        _haemorrhage(canvas)
    _inflammation(canvas, present=rng.random() < (0.5 if index % 2 else 0.8))
    return RenderedSlide(_develop(canvas, field, _STRENGTH[organ]), tissue, tumour)


def _inflammation(canvas: Canvas, *, present: bool) -> None:
    """Patches of dense small nuclei outside the tumour: dense, but not malignant."""
    rng = canvas.rng
    if not present:
        return
    n = len(canvas.tissue)
    patches = smooth_noise(rng, n, 150 * canvas.px / COARSE) > rng.uniform(1.2, 1.7)
    points = canvas.scatter(rng.uniform(7.0, 9.0), jitter=0.45, keep=0.85)
    points = points[canvas.coarse(patches & ~canvas.tumour, points)]
    few = points[rng.random(len(points)) < np.where(canvas.in_stroma(points), 1.0, 0.25)]
    plasma = rng.random(len(few)) < 0.3
    canvas.stamp(few[~plasma], LYMPHOCYTE)
    canvas.stamp(few[plasma], PLASMA)


def _develop(canvas: Canvas, field: np.ndarray, strength: tuple[float, float]) -> np.ndarray:
    """Concentrations to RGB by Beer-Lambert: light = white * exp(-(haematoxylin * H + eosin * E))."""
    rng, size = canvas.rng, canvas.size
    eosin, haematoxylin, fibrous = canvas.concentrations()
    # What was stamped before a lumen was painted over it must not show in the lumen.
    nuclei = canvas.nuclear_haematoxylin() * np.clip((eosin - 0.03) * 50, 0, 1)
    threads = fibres(rng, size, canvas.px)
    grain = smooth_noise(rng, size, 2.6 * canvas.px)
    eosin *= np.clip(1 + 0.34 * fibrous * threads + (0.05 + 0.06 * (1 - fibrous)) * grain, 0.15, 2.2)
    eosin *= 1 - 0.62 * np.minimum(nuclei, 1)
    haematoxylin *= 1 + 0.22 * grain
    haematoxylin += nuclei
    thickness = enlarge(_thickness(rng, size, canvas.px), size)
    thickness = thickness * np.clip(enlarge(field, size) * 90 + 0.5, 0, 1)
    eosin *= thickness
    haematoxylin *= thickness
    vectors = []
    for base, amount in ((_HAEMATOXYLIN, strength[0]), (_EOSIN, strength[1])):
        vector = np.clip(base + rng.normal(0, 0.028, 3), 0.02, 1.0)
        vectors.append(vector * amount * np.exp(rng.normal(0, 0.11)))
    white = rng.uniform(238, 248) + rng.normal(0, 1.5, 3)
    noise = rng.standard_normal((size, size), dtype=np.float32) * 1.6
    image = np.empty((size, size, 3), np.uint8)
    for channel in range(3):
        density = haematoxylin * np.float32(vectors[0][channel])
        density += eosin * np.float32(vectors[1][channel])
        light = np.exp(-density) * np.float32(white[channel]) + noise
        image[..., channel] = np.clip(light, 0, 255)
    return image


def _thickness(rng: np.random.Generator, size: int, px: float) -> np.ndarray:
    """How thick the section is, at a quarter of level 0: about 1, more in a fold, 0 where it is torn."""
    n, px = size // 4, px / 4
    rows, columns = np.mgrid[:n, :n].astype(np.float32)
    thickness = 1 + 0.07 * smooth_noise(rng, n, n / 4)
    if rng.random() < 0.4:
        angle, middle = rng.uniform(0, np.pi), n * rng.uniform(0.3, 0.7, 2)
        across = (
            (columns - middle[0]) * np.cos(angle)
            + (rows - middle[1]) * np.sin(angle)
            + 0.024 * n * smooth_noise(rng, n, n / 2.5)
        )
        along = (rows - middle[1]) * np.cos(angle) - (columns - middle[0]) * np.sin(angle)
        crease = np.clip(1.6 - np.abs(across) / (rng.uniform(9, 20) * px), 0, 1)
        thickness *= 1 + 0.75 * crease * np.clip(4 * (1 - np.abs(along) / (rng.uniform(0.12, 0.3) * n)), 0, 1)
    crack = np.abs(smooth_noise(rng, n, 130 * px) + 0.15 * smooth_noise(rng, n, 22 * px))
    where = smooth_noise(rng, n, 300 * px) - rng.uniform(1.0, 1.9)
    thinned: np.ndarray = (thickness * (1 - np.clip(np.minimum(where * 4, (0.10 - crack) * 18), 0, 1))).astype(np.float32)
    return thinned


def _haemorrhage(canvas: Canvas) -> None:
    """Red cells spilled into the tissue outside the tumour."""
    rng, n = canvas.rng, len(canvas.tissue)
    step = canvas.px / COARSE
    spill = smooth_noise(rng, n, 170 * step) + 0.3 * smooth_noise(rng, n, 25 * step) - rng.uniform(1.5, 2.2)
    points = canvas.scatter(5.6, jitter=0.5)
    likely = np.clip(2.5 * canvas.coarse(np.where(canvas.tumour, -1, spill), points), 0, 0.6)
    canvas.discs(points[(rng.random(len(points)) < likely) & canvas.in_tissue(points)], 3.1, (0.95, 0.0, 0.1))
