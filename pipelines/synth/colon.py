"""Colon mucosa: round crypts with goblet cells; cribriform, back-to-back glands where there is a tumour."""

from __future__ import annotations

import numpy as np

from pipelines.synth.canvas import Canvas, Paint, ring, wavy
from pipelines.synth.kinds import malignant, scatter_stroma_cells, vessel
from pipelines.synth.nuclei import NucleusKind

__all__ = ["STROMA", "paint"]

STROMA: Paint = (0.42, 0.06, 1.0)
_EPITHELIUM: Paint = (0.46, 0.12, 0.1)
_MUCUS: Paint = (0.07, 0.10, 0.0)
_LUMEN: Paint = (0.03, 0.02, 0.0)
_DEBRIS: Paint = (0.75, 0.22, 0.4)
_BASAL = NucleusKind(2.9, 0.1, elongation=1.75, density=1.0, clumping=0.2, rim=0.25, nucleolus=0.05)


def paint(canvas: Canvas) -> None:
    """Crypts everywhere but in the tumour, tumour glands there, then the cells between them."""
    rng, px = canvas.rng, canvas.px
    canvas.cover(canvas.tumour, (0.52, 0.07, 1.0))
    for centre in canvas.spots(5, canvas.normal(20)):
        vessel(canvas, centre, rng.uniform(7, 14), (0.6, 0.05, 0.6))
    seeds = canvas.scatter(92, jitter=0.2, keep=0.95)
    basal, turns = [np.zeros((0, 2))], [np.zeros(0)]
    seeds = seeds[~canvas.in_tumour(seeds)]
    for index, outline in canvas.cells(seeds, shrink=rng.uniform(0.80, 0.90)):
        centre = seeds[index]
        radius = np.linalg.norm(outline - centre, axis=1).mean() / px
        if radius > 75:
            continue
        crypt = canvas.blob(centre, min(radius, 45), irregularity=0.05, elongation=rng.uniform(1, 1.3))
        canvas.stroke(crypt, (0.62, 0.08, 0.5), 1.5)
        canvas.fill(crypt, _EPITHELIUM)
        for inset in (13.5, 22):
            goblets, _ = ring(crypt, 10.5 * px, inset * px)
            goblets += rng.normal(0, 1.5 * px, goblets.shape)
            canvas.discs(goblets[rng.random(len(goblets)) < 0.72], 4.5, _MUCUS, spread=0.2)
        canvas.fill(canvas.blob(centre, rng.uniform(5, 11), irregularity=0.15, elongation=1.5), _LUMEN)
        points, angles = ring(crypt, 5.6 * px, 5.0 * px)
        basal.append(points + rng.normal(0, 0.9 * px, points.shape))
        turns.append(angles)
    canvas.stamp(np.concatenate(basal), _BASAL, angles=np.concatenate(turns))
    _tumour_glands(canvas)
    scatter_stroma_cells(canvas, 10.5, keep=0.72)


def _tumour_glands(canvas: Canvas) -> None:
    rng, px = canvas.rng, canvas.px
    kind = malignant(_BASAL, canvas.grade).towards(_BASAL, 0.15)
    seeds = canvas.scatter(95, jitter=0.45)
    lining, turns = [np.zeros((0, 2))], [np.zeros(0)]
    malignant_seeds = canvas.in_tumour(seeds)
    for index, outline in canvas.cells(seeds, shrink=0.97 - 0.12 * (1 - canvas.grade)):
        if not malignant_seeds[index]:
            continue
        centre = seeds[index]
        canvas.fill(wavy(rng, outline, 2.6 * px), (0.5, 0.2, 0.1))
        radius = np.linalg.norm(outline - centre, axis=1).mean() / px
        holes = [(centre, 0.42 * radius)] if rng.random() > 0.35 + 0.4 * canvas.grade else []
        if not holes:
            middles = centre + rng.normal(0, 0.42 * radius * px, (int(rng.integers(3, 7)), 2))
            holes = [(middle, rng.uniform(0.12, 0.22) * radius) for middle in middles]
        layers = [ring(outline, 8.5 * px, depth * px) for depth in ((5, 14) if rng.random() < canvas.grade else (5.5,))]
        for middle, hole in holes:
            lumen = canvas.blob(middle, hole, irregularity=0.16, elongation=rng.uniform(1, 1.7))
            canvas.fill(lumen, _LUMEN)
            layers.append(ring(lumen, 8.5 * px, -7.0 * px))
            if hole > 12:
                canvas.discs(middle + rng.normal(0, 0.3 * hole * px, (14, 2)), 2.6, _DEBRIS, spread=0.4)
        for points, angles in layers:
            lining.append(points + rng.normal(0, 2.0 * px, points.shape))
            turns.append(angles + rng.normal(0, 0.35, len(angles)))
    points = np.concatenate(lining)
    keep = canvas.apart(points, 1.45 * kind.radius)
    canvas.stamp(points[keep], kind, angles=np.concatenate(turns)[keep], normal=False)
