"""Lymph node: sheets of small lymphocytes, follicles with pale centres; pale cohesive nests where there is a metastasis."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipelines.synth.canvas import Canvas, Paint
from pipelines.synth.fields import COARSE, smooth_noise
from pipelines.synth.kinds import FIBROBLAST, HISTIOCYTE, LYMPHOCYTE, PLASMA, malignant, vessel
from pipelines.synth.nuclei import NucleusKind

__all__ = ["STROMA", "paint"]

STROMA: Paint = (0.20, 0.10, 1.0)
_CAPSULE: Paint = (0.55, 0.04, 1.0)
_CENTROBLAST = NucleusKind(3.5, 0.15, elongation=1.15, density=0.78, clumping=0.2, rim=0.4, nucleolus=0.3)


def paint(canvas: Canvas) -> None:
    """Capsule and sinus at the edge, lymphocytes and follicles inside, metastatic nests in the tumour."""
    rng, px = canvas.rng, canvas.px
    step = px / COARSE
    depth = ndimage.distance_transform_edt(np.pad(canvas.tissue, 1))[1:-1, 1:-1] / step
    ragged = 5 * smooth_noise(rng, len(depth), 60 * step)
    capsule, sinus = canvas.tissue & (depth < 16 + ragged), canvas.tissue & (depth >= 16 + ragged) & (depth < 32 + ragged)
    medulla = canvas.tissue & (np.abs(smooth_noise(rng, len(depth), 220 * step)) < 0.1) & (depth > 60)
    canvas.cover(sinus | medulla, (0.10, 0.02, 0.2))
    canvas.cover(capsule, _CAPSULE)
    follicles, centres = _follicles(canvas)
    canvas.cover(centres, (0.30, 0.09, 0.1))
    cloud = smooth_noise(rng, len(depth), 150 * step) + 0.35 * smooth_noise(rng, len(depth), 25 * step)
    histiocytic = canvas.tissue & ~capsule & (cloud > rng.uniform(0.8, 1.8))
    canvas.cover(histiocytic & ~canvas.tumour, (0.36, 0.04, 0.2))
    canvas.cover(canvas.tumour, (0.46, 0.06, 1.0))

    sparse = sinus | medulla | capsule | centres | histiocytic | canvas.tumour
    points = canvas.scatter(6.7, jitter=0.42, keep=0.94)
    canvas.stamp(points[~canvas.coarse(sparse, points) & ~canvas.coarse(follicles, points)], LYMPHOCYTE)
    dense = canvas.scatter(6.0, jitter=0.4)
    canvas.stamp(dense[canvas.coarse(follicles & ~sparse, dense)], LYMPHOCYTE)
    pale = canvas.scatter(9.2, keep=0.95)
    canvas.stamp(pale[canvas.coarse(centres & ~canvas.tumour, pale)], _CENTROBLAST)
    canvas.stamp(pale[canvas.coarse(histiocytic & ~canvas.tumour, pale)], HISTIOCYTE)
    loose = canvas.scatter(13, keep=0.7)
    canvas.stamp(loose[canvas.coarse((sinus | medulla) & ~canvas.tumour, loose)], HISTIOCYTE)
    canvas.stamp(
        points[canvas.coarse((sinus | medulla) & ~canvas.tumour, points) & (rng.random(len(points)) < 0.2)], LYMPHOCYTE
    )
    canvas.stamp(loose[canvas.coarse(capsule & ~canvas.tumour, loose)], FIBROBLAST)
    for centre in canvas.spots(4, canvas.normal(25)):
        vessel(canvas, centre, rng.uniform(6, 11), (0.5, 0.05, 0.6))
        canvas.wipe_nuclei(centre, 12)
    _metastasis(canvas)


def _follicles(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Coarse masks of whole follicles and of their pale centres."""
    n = len(canvas.tissue)
    rows, columns = np.mgrid[:n, :n].astype(np.float32) * COARSE
    wobble = 1 + 0.13 * smooth_noise(canvas.rng, n, 110 * canvas.px / COARSE)
    whole, pale = np.zeros((n, n), bool), np.zeros((n, n), bool)
    area = (canvas.size / canvas.px / 1000) ** 2
    for centre in canvas.spots(int(canvas.rng.integers(3, 9) * max(area, 0.3)), canvas.tissue):
        radius = canvas.rng.uniform(55, 100) * canvas.px
        distance = np.hypot(columns - centre[0], rows - centre[1]) / (radius * wobble)
        whole |= distance < 1
        pale |= distance < canvas.rng.uniform(0.0, 0.75)
    return whole & canvas.tissue, pale & canvas.tissue


def _metastasis(canvas: Canvas) -> None:
    rng, px = canvas.rng, canvas.px
    seeds = canvas.scatter(62, jitter=0.45, keep=0.9)
    inside = canvas.in_tumour(seeds)
    for index, outline in canvas.cells(seeds, shrink=0.9):
        if inside[index]:
            canvas.fill(outline + rng.normal(0, 2.5 * px, outline.shape), (0.36, 0.09, 0.1))
    for centre in canvas.spots(round(0.00035 * canvas.tumour.sum() * 64 / px**2), canvas.tumour):
        canvas.fill(canvas.blob(centre, rng.uniform(6, 13), irregularity=0.12), (0.03, 0.02, 0.0))
    cells = canvas.scatter(9.4, jitter=0.38, keep=0.95)
    kind = malignant(_CENTROBLAST, canvas.grade)
    cells = cells[canvas.in_tumour(cells)]
    cells = cells[canvas.apart(cells, 1.75 * kind.radius)]
    nest = ~canvas.in_stroma(cells)
    infiltration = rng.uniform(0.0, 0.7)
    canvas.stamp(cells[nest], kind, normal=False)
    canvas.stamp(cells[nest & (rng.random(len(cells)) < infiltration)] + 4.5 * px, LYMPHOCYTE)
    stromal = cells[~nest]
    which = rng.random(len(stromal))
    canvas.stamp(stromal[which < 0.35], FIBROBLAST)
    canvas.stamp(stromal[(which >= 0.35) & (which < 0.8)], LYMPHOCYTE)
    canvas.stamp(stromal[which >= 0.8], PLASMA)
