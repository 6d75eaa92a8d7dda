"""The cells that several organs share."""

from __future__ import annotations

import numpy as np

from pipelines.synth.canvas import Canvas, Paint
from pipelines.synth.nuclei import NucleusKind

__all__ = ["FIBROBLAST", "HISTIOCYTE", "LYMPHOCYTE", "PLASMA", "malignant", "scatter_stroma_cells", "vessel"]

LYMPHOCYTE = NucleusKind(2.9, 0.09, elongation=1.08, density=1.35, clumping=0.22, rim=0.1, irregularity=0.03)
PLASMA = NucleusKind(3.1, 0.1, elongation=1.12, density=1.15, clumping=0.3, rim=0.3, irregularity=0.04)
FIBROBLAST = NucleusKind(2.7, 0.18, elongation=3.0, density=0.95, clumping=0.15, rim=0.15, irregularity=0.04)
HISTIOCYTE = NucleusKind(3.4, 0.14, elongation=1.4, density=0.75, clumping=0.14, rim=0.4, nucleolus=0.2, irregularity=0.08)

# What tumours of all organs have in common: large, dark, clumped, irregular nuclei with nucleoli, and no two alike.
_ANAPLASTIC = NucleusKind(4.9, 0.24, elongation=1.3, density=1.12, clumping=0.27, rim=0.4, nucleolus=0.6, irregularity=0.09)


def malignant(normal: NucleusKind, grade: float) -> NucleusKind:
    """The tumour's counterpart of a normal kind: towards anaplasia as the grade (0 to 1) rises."""
    return normal.towards(_ANAPLASTIC, 0.2 + 0.77 * grade)


def scatter_stroma_cells(canvas: Canvas, spacing: float, *, keep: float = 0.5) -> None:
    """Fibroblasts, lymphocytes and plasma cells wherever nothing was painted over the stroma; ``spacing`` in micrometres."""
    points = canvas.scatter(spacing, keep=keep)
    points = points[canvas.in_stroma(points)]
    which = canvas.rng.random(len(points))
    canvas.stamp(points[which < 0.55], FIBROBLAST)
    canvas.stamp(points[(which >= 0.55) & (which < 0.8)], LYMPHOCYTE)
    canvas.stamp(points[which >= 0.8], PLASMA)


def vessel(canvas: Canvas, centre: np.ndarray, radius: float, wall: Paint) -> None:
    """A vessel cut across: a wall, a lumen with red cells; ``radius`` in micrometres."""
    canvas.fill(canvas.blob(centre, radius * 1.3), wall)
    canvas.fill(canvas.blob(centre, radius), (0.02, 0.0, 0.0))
    inside = centre + canvas.rng.normal(0, 0.4 * radius * canvas.px, (int(radius), 2))
    canvas.discs(inside, 3.0, (1.05, 0.0, 0.0))
