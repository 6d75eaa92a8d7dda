"""Kidney cortex: tubules and glomeruli; nests of clear cells in a fine vessel net where there is a tumour."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from pipelines.synth.canvas import Canvas, Paint, ring, wavy
from pipelines.synth.fields import COARSE, smooth_noise
from pipelines.synth.kinds import FIBROBLAST, malignant, scatter_stroma_cells, vessel
from pipelines.synth.nuclei import NucleusKind

__all__ = ["STROMA", "paint"]

STROMA: Paint = (0.36, 0.04, 1.0)
_PROXIMAL: Paint = (0.66, 0.08, 0.15)
_DISTAL: Paint = (0.40, 0.06, 0.1)
_VACUOLATED: Paint = (0.17, 0.03, 0.08)
_LUMEN: Paint = (0.03, 0.0, 0.0)
_TUFT: Paint = (0.50, 0.12, 0.3)
_TUBULAR = NucleusKind(3.1, 0.09, elongation=1.1, density=0.95, clumping=0.18, rim=0.3, nucleolus=0.1)
_MESANGIAL = NucleusKind(2.8, 0.12, elongation=1.4, density=1.1, clumping=0.2, rim=0.2)


def paint(canvas: Canvas) -> None:
    """Tubules, glomeruli and vessels outside the tumour, clear cells inside it, then the interstitium."""
    rng, px = canvas.rng, canvas.px
    seeds = canvas.scatter(49, jitter=0.3)
    lining: list[np.ndarray] = [np.zeros((0, 2))]
    malignant_seeds = canvas.in_tumour(seeds)
    # Benign tubules may be clear as well, so a pale cytoplasm alone is not a tumour.
    pale = smooth_noise(rng, len(canvas.tissue), 160 * px / COARSE) > rng.uniform(0.8, 2.2)
    vacuolated = canvas.coarse(pale, seeds) & (rng.random(len(seeds)) < 0.8)
    for index, outline in canvas.cells(seeds, shrink=0.93):
        if malignant_seeds[index]:
            continue
        centre = seeds[index]
        proximal = rng.random() < 0.68
        canvas.stroke(outline, (0.58, 0.08, 0.6), 1.2)
        canvas.fill(outline, _VACUOLATED if vacuolated[index] else _PROXIMAL if proximal else _DISTAL)
        lumen = centre + (outline - centre) * (rng.uniform(0.16, 0.3) if proximal else rng.uniform(0.4, 0.55))
        canvas.fill(wavy(rng, lumen, (0.9 if proximal else 0.3) * px), _LUMEN)
        points, _ = ring(outline, (14 if proximal else 9.5) * px, (6.5 if proximal else 5) * px)
        lining.append(points + rng.normal(0, 1.1 * px, points.shape))
    canvas.stamp(np.concatenate(lining), _TUBULAR)
    area = (canvas.size / px / 1000) ** 2
    glomeruli = canvas.spots(max(1, round(8 * area)), canvas.normal(75))
    for centre in glomeruli[canvas.apart(glomeruli, 195)]:
        _glomerulus(canvas, centre)
    for centre in canvas.spots(max(1, round(4 * area)), canvas.normal(30)):
        vessel(canvas, centre, rng.uniform(12, 24), (0.72, 0.08, 0.9))
    _clear_cells(canvas)
    scatter_stroma_cells(canvas, 9.5, keep=0.5)


def _glomerulus(canvas: Canvas, centre: np.ndarray) -> None:
    rng, px = canvas.rng, canvas.px
    radius = rng.uniform(68, 92)
    capsule = canvas.blob(centre, radius, irregularity=0.04, elongation=rng.uniform(1, 1.2))
    canvas.wipe_nuclei(centre, 1.06 * radius)
    canvas.stroke(capsule, (0.62, 0.10, 0.6), 4)
    canvas.fill(capsule, _LUMEN)
    turns = rng.uniform(0, 2 * np.pi) + np.arange(8) * np.pi / 4
    reach = rng.uniform(0.4, 0.56, (8, 1)) * radius * px
    canvas.fill(canvas.blob(centre, 0.62 * radius, irregularity=0.1), _TUFT)
    for lobule in centre + reach * np.stack([np.cos(turns), np.sin(turns)], axis=1):
        canvas.fill(canvas.blob(lobule, rng.uniform(0.26, 0.36) * radius, irregularity=0.1), _TUFT)
    points = centre + rng.uniform(-radius * px, radius * px, (round(0.095 * radius**2), 2))
    points = points[canvas.apart(points, 5.2) & (np.linalg.norm(points - centre, axis=1) < 0.86 * radius * px)]
    canvas.discs(points[::2] + 4.5 * px, 2.6, (0.14, 0.02, 0.1), spread=0.3)
    canvas.stamp(points, _MESANGIAL)
    edge, angles = ring(capsule, 26 * px, 0)
    canvas.stamp(edge, FIBROBLAST, angles=angles + np.pi / 2)


def _clear_cells(canvas: Canvas) -> None:
    rng, px = canvas.rng, canvas.px
    kind = malignant(_TUBULAR, canvas.grade)
    canvas.cover(canvas.tumour, (0.46, 0.09, 1.0))
    seeds = canvas.scatter(17.5, jitter=0.42)
    seeds = seeds[canvas.in_tumour(seeds)]
    nearest, _ = cKDTree(canvas.scatter(78, jitter=0.45)).query(seeds, k=2)
    in_nest = nearest[:, 1] - nearest[:, 0] > 5 * px
    eosinophilic = rng.uniform(0.05, 0.55)
    middles = []
    for index, outline in canvas.cells(seeds):
        reach = np.linalg.norm(outline - seeds[index], axis=1).max() / px
        if reach > 22 or not in_nest[index]:
            continue
        granular = rng.random() < eosinophilic
        canvas.stroke(outline, (0.50, 0.10, 0.2), 1.1)
        canvas.fill(outline, (0.52, 0.07, 0.1) if granular else (rng.uniform(0.06, 0.17), 0.015, 0.05))
        middles.append(seeds[index] + rng.normal(0, 1.6 * px, 2))
    canvas.stamp(np.array(middles).reshape(-1, 2), kind, normal=False)
    for pool in canvas.spots(4, canvas.tumour):
        canvas.discs(pool + rng.normal(0, 12 * px, (60, 2)), 3.0, (1.0, 0.0, 0.1))
