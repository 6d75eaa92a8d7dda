"""Nuclei: their kinds, and a bank of rendered examples that is stamped onto the slide."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Bank", "NucleusKind", "make_bank"]

_ORIENTATIONS = 12
_VARIANTS = 7


@dataclass(frozen=True)
class NucleusKind:
    """How nuclei of one kind look.

    Attributes:
        radius: mean radius in micrometres.
        spread: relative standard deviation of the radius.
        elongation: mean ratio of the long to the short axis.
        density: haematoxylin concentration, 1 for an ordinary nucleus.
        clumping: contrast of the chromatin.
        rim: how much darker the membrane is than the inside.
        nucleolus: share of nuclei with a visible nucleolus.
        irregularity: relative deviation of the outline from an ellipse.
    """

    radius: float
    spread: float = 0.1
    elongation: float = 1.2
    density: float = 1.0
    clumping: float = 0.2
    rim: float = 0.25
    nucleolus: float = 0.0
    irregularity: float = 0.05

    def towards(self, other: NucleusKind, amount: float) -> NucleusKind:
        """The kind that lies ``amount`` (0 to 1) of the way to ``other``."""
        pairs = {entry.name: (getattr(self, entry.name), getattr(other, entry.name)) for entry in dataclasses.fields(self)}
        return NucleusKind(**{name: (1 - amount) * mine + amount * its for name, (mine, its) in pairs.items()})


@dataclass(frozen=True)
class Bank:
    """Rendered nuclei, (orientation, variant, side, side) float32 haematoxylin; their long axes turn by pi in all."""

    patches: np.ndarray

    def choose(self, rng: np.random.Generator, angles: np.ndarray) -> np.ndarray:
        """One patch for each angle (radians, of the long axis): (N, side, side)."""
        turns = np.round(angles / np.pi * _ORIENTATIONS).astype(int) % _ORIENTATIONS
        drawn: np.ndarray = self.patches[turns, rng.integers(_VARIANTS, size=len(angles))]
        return drawn


def make_bank(rng: np.random.Generator, kind: NucleusKind, pixels_per_um: float) -> Bank:
    """Render nuclei of one kind with their sizes, outlines and chromatin drawn at random."""
    count = _ORIENTATIONS * _VARIANTS
    radius = kind.radius * pixels_per_um * np.exp(kind.spread * np.clip(rng.standard_normal(count), -1.8, 1.8))
    elongation = np.maximum(1.0, kind.elongation * np.exp(rng.normal(0, 0.12, count)))
    long, short = radius * np.sqrt(elongation), radius / np.sqrt(elongation)
    side = int(np.ceil(2 * long.max() * (1 + 2 * kind.irregularity))) + 3
    long, short = long.astype(np.float32), short.astype(np.float32)
    angle = np.repeat(np.arange(_ORIENTATIONS), _VARIANTS) * np.pi / _ORIENTATIONS + rng.normal(0, 0.12, count)
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2
    column = (slice(None), None, None)
    cosine, sine = (part.astype(np.float32)[column] for part in (np.cos(angle), np.sin(angle)))
    u, v = (columns * cosine + rows * sine) / long[column], (rows * cosine - columns * sine) / short[column]
    polar = np.arctan2(v, u)
    outline = np.ones_like(u)
    for harmonic in (2, 3, 4):
        amplitude, phase = rng.normal(0, kind.irregularity / harmonic * 2, count), rng.uniform(0, 2 * np.pi, count)
        outline += amplitude.astype(np.float32)[column] * np.cos(harmonic * polar + phase.astype(np.float32)[column])
    distance = np.hypot(u, v) / outline
    inside = np.clip((1 - distance) * short[column] / 1.6 + 0.5, 0, 1)
    chromatin = ndimage.gaussian_filter(rng.standard_normal((count, side, side), dtype=np.float32), (0, 1.3, 1.3), mode="wrap")
    body = 1 - 0.5 * kind.rim + kind.clumping * chromatin / chromatin.std()
    body += kind.rim * np.exp(-(((distance - 0.88) / 0.16) ** 2))
    for _ in range(2):
        spot = rng.uniform(-0.4, 0.4, (2, count)).astype(np.float32)
        present = (rng.random(count) < kind.nucleolus)[column]
        core = np.exp(-((u - spot[0][column]) ** 2 + (v - spot[1][column]) ** 2) / 0.035)
        body += 0.55 * present * core
    shade = (kind.density * np.exp(rng.normal(0, 0.13, count))).astype(np.float32)[column]
    patches = np.clip(shade * body, 0.1, 2.4) * inside
    return Bank(patches.astype(np.float32).reshape(_ORIENTATIONS, _VARIANTS, side, side))
