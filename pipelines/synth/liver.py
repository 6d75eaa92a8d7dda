"""Liver: plates of hepatocytes between sinusoids, central veins and portal tracts; fatty trabeculae where there is a tumour."""

from __future__ import annotations

import numpy as np
from scipy.spatial import Voronoi

from pipelines.synth.canvas import Canvas, Paint, ring
from pipelines.synth.fields import smooth_noise
from pipelines.synth.kinds import FIBROBLAST, LYMPHOCYTE, malignant, scatter_stroma_cells
from pipelines.synth.nuclei import NucleusKind

__all__ = ["STROMA", "paint"]

STROMA: Paint = (0.40, 0.05, 1.0)
_HEPATOCYTE: Paint = (0.62, 0.09, 0.12)
_MEMBRANE: Paint = (0.46, 0.05, 0.1)
_SINUSOID: Paint = (0.16, 0.02, 0.0)
_FAT: Paint = (0.01, 0.0, 0.0)
_ROUND = NucleusKind(3.5, 0.1, elongation=1.05, density=0.85, clumping=0.16, rim=0.45, nucleolus=0.55, irregularity=0.02)
_POLYPLOID = NucleusKind(4.6, 0.12, elongation=1.08, density=0.95, clumping=0.2, rim=0.45, nucleolus=0.7, irregularity=0.03)
_DUCT = NucleusKind(2.7, 0.1, elongation=1.2, density=1.05)
_KUPFFER = NucleusKind(2.2, 0.2, elongation=2.6, density=1.1)


def paint(canvas: Canvas) -> None:
    """Plates outside the tumour, trabeculae inside it, then veins and portal tracts."""
    rng, px = canvas.rng, canvas.px
    cells = canvas.scatter(20.5, jitter=0.24)
    tumour = canvas.in_tumour(cells)
    n = len(canvas.tissue)
    winding = smooth_noise(rng, n, 0.45 * n * 1024 / (canvas.size / px)) * 3.0
    trabecular = smooth_noise(rng, n, 0.2 * n * 1024 / (canvas.size / px)) * 2.2
    plate = np.where(
        tumour,
        1000 + np.floor(canvas.coarse(trabecular, cells) + cells[:, 0] / (75 * px)),
        np.floor(canvas.coarse(winding, cells) * 4 + (cells[:, 0] * 0.6 + cells[:, 1] * 0.8) / (27 * px)),
    ).astype(int)
    _paint_cells(canvas, cells, tumour, plate)
    area = (canvas.size / px / 1000) ** 2
    for centre in canvas.spots(max(1, round(3 * area)), canvas.normal(40)):
        _central_vein(canvas, centre)
    for centre in canvas.spots(max(1, round(3 * area)), canvas.normal(60)):
        _portal_tract(canvas, centre)
    scatter_stroma_cells(canvas, 9.5, keep=0.6)


def _paint_cells(canvas: Canvas, cells: np.ndarray, tumour: np.ndarray, plate: np.ndarray) -> None:
    rng, px = canvas.rng, canvas.px
    for index, outline in canvas.cells(cells, shrink=1.12, round_off=False):
        if tumour[index]:
            canvas.fill(outline, (0.52 + rng.normal(0, 0.04), 0.14 + 0.08 * canvas.grade, 0.12))
        else:
            tone = rng.normal(0, 0.05)
            canvas.fill(outline, (_HEPATOCYTE[0] + tone, _HEPATOCYTE[1], _HEPATOCYTE[2]))
    diagram = Voronoi(cells)
    lining = []
    for (first, second), ends in zip(diagram.ridge_points, diagram.ridge_vertices, strict=True):
        if -1 in ends:
            continue
        line = diagram.vertices[ends]
        if plate[first] == plate[second]:
            canvas.stroke(line, _MEMBRANE, 0.8, closed=False)
        elif tumour[first] and tumour[second]:
            canvas.stroke(line, _SINUSOID, rng.uniform(2.5, 6.5), closed=False)
        elif rng.random() < 0.88:
            canvas.stroke(line, _SINUSOID, rng.uniform(1.0, 3.8), closed=False)
            if rng.random() < 0.22:
                lining.append((*line.mean(axis=0), np.arctan2(*(line[1] - line[0])[::-1])))
    _fatty_change(canvas)
    middles = cells + rng.normal(0, 1.5 * px, cells.shape)
    shown = rng.random(len(cells)) < 0.86
    polyploid = rng.random(len(cells)) < rng.uniform(0.0, 0.15)
    canvas.stamp(middles[~tumour & shown & ~polyploid], _ROUND)
    canvas.stamp(middles[~tumour & shown & polyploid], _POLYPLOID)
    spread = np.array(lining).reshape(-1, 3)
    canvas.stamp(spread[:, :2], _KUPFFER, angles=spread[:, 2])
    # Tumour cells are smaller than hepatocytes, so that each outline above holds one nucleus and often a second.
    second = middles[tumour][rng.random(int(tumour.sum())) < 0.35 + 0.3 * canvas.grade]
    crowded = np.concatenate([middles[tumour], second + rng.normal(0, 7 * px, second.shape)])
    kind = malignant(_ROUND, canvas.grade)
    canvas.stamp(crowded[canvas.apart(crowded, 1.7 * kind.radius)], kind, normal=False)


def _fatty_change(canvas: Canvas) -> None:
    rng, px = canvas.rng, canvas.px
    fatty = canvas.spots(round(0.0011 * canvas.tumour.sum() * 64 / px**2 * rng.uniform(0.0, 0.9)), canvas.tumour)
    _fat(canvas, fatty)
    if rng.random() < 0.55:
        # Steatosis is common in livers without a tumour too, so fat alone says nothing.
        steatotic = canvas.tissue & ~canvas.tumour & (smooth_noise(rng, len(canvas.tissue), len(canvas.tissue) / 3) > 0.5)
        _fat(canvas, canvas.spots(round(0.0011 * steatotic.sum() * 64 / px**2), steatotic))


def _fat(canvas: Canvas, points: np.ndarray) -> None:
    canvas.discs(points[canvas.apart(points, 12)], 6.0, _FAT, spread=0.4)


def _central_vein(canvas: Canvas, centre: np.ndarray) -> None:
    rng, px = canvas.rng, canvas.px
    vein = canvas.blob(centre, rng.uniform(22, 38), irregularity=0.08, elongation=rng.uniform(1, 1.4))
    canvas.wipe_nuclei(centre, 36)
    canvas.stroke(vein, (0.5, 0.05, 0.9), 4)
    canvas.fill(vein, (0.02, 0.0, 0.0))
    edge, angles = ring(vein, 16 * px, 0)
    canvas.stamp(edge, FIBROBLAST, angles=angles + np.pi / 2)


def _portal_tract(canvas: Canvas, centre: np.ndarray) -> None:
    rng, px = canvas.rng, canvas.px
    radius = rng.uniform(42, 62)
    canvas.wipe_nuclei(centre, 0.95 * radius)
    canvas.fill(canvas.blob(centre, radius, irregularity=0.16, elongation=rng.uniform(1, 1.5)), STROMA)
    canvas.fill(canvas.blob(centre + rng.normal(0, 9 * px, 2), 0.32 * radius, irregularity=0.1, elongation=1.4), (0.02, 0, 0))
    for _ in range(2):
        middle = centre + rng.normal(0, 0.42 * radius * px, 2)
        duct = canvas.blob(middle, 10, irregularity=0.04)
        canvas.fill(duct, (0.42, 0.12, 0.1))
        canvas.fill(canvas.blob(middle, 4), (0.03, 0, 0))
        points, angles = ring(duct, 4.6 * px, 3 * px)
        canvas.stamp(points, _DUCT, angles=angles)
    inflamed = centre + rng.normal(0, 0.45 * radius * px, (int(rng.integers(5, 60)), 2))
    canvas.stamp(inflamed[canvas.in_stroma(inflamed)], LYMPHOCYTE)
