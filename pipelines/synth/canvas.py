"""The canvas a slide is drawn on: polygons of eosin and haematoxylin, and stamped nuclei."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from scipy.spatial import Voronoi, cKDTree

from pipelines.synth.fields import COARSE
from pipelines.synth.nuclei import NucleusKind, make_bank

__all__ = ["Canvas", "Paint", "ring", "wavy"]

# Concentrations are painted in 8 bits; textures and noise hide the steps.
_STEPS = 140.0
_MARGIN = 64
_STROMA = 255
_LUMEN = 6

# Eosin concentration, haematoxylin concentration, and how fibrous the place is (0 to 1).
Paint = tuple[float, float, float]


class Canvas:
    """A slide being drawn. Lengths in the drawing methods are micrometres if stated, points are pixels (x, y).

    Attributes:
        rng: the slide's random numbers.
        size: level-0 side in pixels.
        px: pixels per micrometre.
        tissue, tumour: (size / 8, size / 8) bool.
        grade: 0 to 1, how far the tumour is from normal.
        reactive: factor on the size of normal nuclei.
        nuclei: (size + 2 * margin,) * 2 float32, haematoxylin of nuclei.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        size: int,
        mpp: float,
        tissue: np.ndarray,
        tumour: np.ndarray,
        grade: float,
        reactive: float,
        stroma: Paint,
    ) -> None:
        self.rng, self.size, self.px = rng, size, 1.0 / mpp
        self.tissue, self.tumour, self.grade, self.reactive = tissue, tumour, grade, reactive
        self.nuclei = np.zeros((size + 2 * _MARGIN, size + 2 * _MARGIN), np.float32)
        self._image = Image.new("RGB", (size, size), _colour((stroma[0], stroma[1], 1.0)))
        self._draw = ImageDraw.Draw(self._image)
        self._pixels: np.ndarray | None = None

    # --- points

    def scatter(self, spacing: float, *, jitter: float = 0.38, keep: float = 1.0) -> np.ndarray:
        """Points (N, 2) on a jittered hexagonal grid over the whole slide; ``spacing`` in micrometres."""
        step = spacing * self.px
        rows = np.arange(-step, self.size + step, step * np.sqrt(3) / 2)
        columns = np.arange(-step, self.size + step, step)
        x = columns[None, :] + 0.5 * step * (np.arange(len(rows)) % 2)[:, None]
        points = np.stack([x, np.broadcast_to(rows[:, None], x.shape)], axis=-1).reshape(-1, 2)
        points = points + self.rng.uniform(-jitter, jitter, points.shape) * step
        return points if keep >= 1 else points[self.rng.random(len(points)) < keep]

    def spots(self, count: int, mask: np.ndarray) -> np.ndarray:
        """``count`` random points (N, 2) where a coarse mask holds; none if it is empty."""
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return np.zeros((0, 2))
        pick = self.rng.integers(len(rows), size=count)
        return (np.stack([columns[pick], rows[pick]], axis=1) + self.rng.random((count, 2))) * COARSE

    def coarse(self, mask: np.ndarray, points: np.ndarray) -> np.ndarray:
        """A coarse field's values (N,) at points; points off the slide take the nearest."""
        index = np.clip((points / COARSE).astype(int), 0, len(mask) - 1)
        values: np.ndarray = mask[index[:, 1], index[:, 0]]
        return values

    def in_tumour(self, points: np.ndarray) -> np.ndarray:
        """Whether points lie in the tumour region, (N,) bool."""
        return self.coarse(self.tumour, points)

    def in_tissue(self, points: np.ndarray) -> np.ndarray:
        """Whether points lie in tissue, (N,) bool."""
        return self.coarse(self.tissue, points)

    def in_stroma(self, points: np.ndarray) -> np.ndarray:
        """Whether points lie where nothing was painted over the stroma, (N,) bool."""
        bare: np.ndarray = self._painted(points, 2) == _STROMA
        return bare

    def _in_lumen(self, points: np.ndarray) -> np.ndarray:
        return self._painted(points, 0) < _LUMEN

    def _painted(self, points: np.ndarray, channel: int) -> np.ndarray:
        index = np.clip(points.astype(int), 0, self.size - 1)
        if self._pixels is None:
            self._pixels = np.asarray(self._image)
        painted: np.ndarray = self._pixels[index[:, 1], index[:, 0], channel]
        return painted

    def apart(self, points: np.ndarray, distance: float) -> np.ndarray:
        """Which of the points (N, 2) to keep so that no two are nearer than ``distance`` micrometres, (N,) bool."""
        keep = np.ones(len(points), bool)
        for first, second in sorted(cKDTree(points).query_pairs(distance * self.px)) if len(points) > 1 else ():
            if keep[first]:
                keep[second] = False
        return keep

    def normal(self, margin: float) -> np.ndarray:
        """Where tissue without a tumour reaches ``margin`` micrometres in all directions, (size / 8, size / 8) bool."""
        free = np.pad(self.tissue & ~self.tumour, 1)
        deep: np.ndarray = ndimage.distance_transform_edt(free)[1:-1, 1:-1] * COARSE > margin * self.px
        return deep

    # --- outlines

    def blob(self, centre: np.ndarray, radius: float, *, irregularity: float = 0.06, elongation: float = 1.0) -> np.ndarray:
        """A closed irregular outline (48, 2) around ``centre``; ``radius`` in micrometres."""
        polar = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        length = np.ones(48)
        for harmonic in range(2, 7):
            amplitude, phase = self.rng.normal(0, irregularity / np.sqrt(harmonic - 1)), self.rng.uniform(0, 2 * np.pi)
            length += amplitude * np.cos(harmonic * polar + phase)
        length = np.maximum(length, 0.3) * radius * self.px
        u, v = length * np.cos(polar) * np.sqrt(elongation), length * np.sin(polar) / np.sqrt(elongation)
        turn = self.rng.uniform(0, np.pi)
        outline: np.ndarray = centre + np.stack(
            [u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)], axis=1
        )
        return outline

    def cells(self, points: np.ndarray, *, shrink: float = 0.92, round_off: bool = True) -> Iterator[tuple[int, np.ndarray]]:
        """Voronoi cells as (index of the point, outline (M, 2)), of the points that have a closed one near the slide."""
        if len(points) < 5:
            return
        diagram = Voronoi(points)
        limit = 4 * self.size
        for index, region in enumerate(diagram.point_region):
            corners = diagram.regions[region]
            if len(corners) > 2 and -1 not in corners:
                outline = diagram.vertices[corners]
                if np.abs(outline).max() < limit:
                    centre = outline.mean(axis=0)
                    cell = centre + shrink * (outline - centre)
                    yield index, _rounded(cell) if round_off else cell

    # --- paint

    def fill(self, outline: np.ndarray, paint: Paint) -> None:
        """Fill an outline (N, 2)."""
        self._pixels = None
        self._draw.polygon(outline.ravel().tolist(), fill=_colour(paint))

    def stroke(self, line: np.ndarray, paint: Paint, width: float, *, closed: bool = True) -> None:
        """Draw a line along points (N, 2); ``width`` in micrometres."""
        self._pixels = None
        path = np.concatenate([line, line[:1]]) if closed else line
        self._draw.line(path.ravel().tolist(), fill=_colour(paint), width=max(1, round(width * self.px)), joint="curve")

    def discs(self, points: np.ndarray, radius: float, paint: Paint, *, spread: float = 0.1) -> None:
        """Fill circles at points; ``radius`` in micrometres, varied by ``spread``."""
        self._pixels = None
        colour = _colour(paint)
        radii = radius * self.px * np.exp(self.rng.normal(0, spread, len(points)))
        for (x, y), r in zip(points.tolist(), radii.tolist(), strict=True):
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def cover(self, mask: np.ndarray, paint: Paint) -> None:
        """Fill where a coarse mask holds, with a soft edge."""
        self._pixels = None
        alpha = Image.fromarray(mask.astype(np.uint8) * 255).resize((self.size, self.size), Image.Resampling.BICUBIC)
        self._image.paste(_colour(paint), (0, 0, self.size, self.size), alpha.point(lambda value: 255 if value > 127 else 0))

    # --- nuclei

    def stamp(self, points: np.ndarray, kind: NucleusKind, *, angles: np.ndarray | None = None, normal: bool = True) -> None:
        """Stamp nuclei of one kind at points (N, 2), except outside the tissue and in lumens.

        Args:
            points: their centres, pixels.
            kind: their appearance; ``normal`` nuclei grow by the slide's reactive factor.
            angles: (N,) radians of their long axes; random if None.
        """
        if not len(points):
            return
        if normal and self.reactive != 1:
            kind = kind.towards(NucleusKind(**{**vars(kind), "radius": kind.radius * self.reactive, "nucleolus": 0.25}), 1.0)
        turn = self.rng.uniform(0, np.pi, len(points)) if angles is None else angles
        patches = make_bank(self.rng, kind, self.px).choose(self.rng, turn)
        side = patches.shape[1]
        corners = np.round(points - (side - 1) / 2).astype(int) + _MARGIN
        fits = (
            ((corners >= 0) & (corners + side <= len(self.nuclei))).all(axis=1)
            & self.in_tissue(points)
            & ~self._in_lumen(points)
        )
        for (x, y), patch in zip(corners[fits].tolist(), patches[fits], strict=True):
            window = self.nuclei[y : y + side, x : x + side]
            np.maximum(window, patch, out=window)

    def wipe_nuclei(self, centre: np.ndarray, radius: float) -> None:
        """Remove the nuclei within ``radius`` micrometres of a point."""
        reach = radius * self.px
        low = np.maximum(np.floor(centre - reach).astype(int) + _MARGIN, 0)
        high = np.maximum(np.ceil(centre + reach).astype(int) + _MARGIN, 0)
        window = self.nuclei[low[1] : high[1], low[0] : high[0]]
        rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
        offset = low - _MARGIN - centre
        window *= np.hypot(columns + offset[0], rows + offset[1]) > reach

    # --- result

    def concentrations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eosin, haematoxylin without nuclei, and fibrousness, each (size, size) float32."""
        soft = np.asarray(self._image.filter(ImageFilter.BoxBlur(0.4 * self.px)))
        eosin, haematoxylin, fibrous = (soft[..., channel].astype(np.float32) for channel in range(3))
        return eosin / _STEPS, haematoxylin / _STEPS, fibrous / 255

    def nuclear_haematoxylin(self) -> np.ndarray:
        """Haematoxylin of the nuclei, (size, size) float32."""
        return self.nuclei[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def wavy(rng: np.random.Generator, outline: np.ndarray, amount: float) -> np.ndarray:
    """An outline with smooth dents and bulges of about ``amount`` pixels."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal(outline.shape), 1.6, axis=0, mode="wrap")
    roughened: np.ndarray = outline + amount * noise / max(noise.std(), 1e-6)
    return roughened


def _rounded(outline: np.ndarray) -> np.ndarray:
    """An outline with its corners cut twice (Chaikin)."""
    for _ in range(2):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1).reshape(-1, 2)
    return outline


def ring(outline: np.ndarray, spacing: float, inset: float) -> tuple[np.ndarray, np.ndarray]:
    """Points along an outline, moved inwards, and the angle from the outline's centre.

    Args:
        outline: (N, 2) pixels.
        spacing: distance of neighbouring points in pixels.
        inset: distance to the outline in pixels.

    Returns:
        points (M, 2) and angles (M,) radians.
    """
    centre = outline.mean(axis=0)
    radii = np.linalg.norm(outline - centre, axis=1, keepdims=True)
    inner = centre + (outline - centre) * np.maximum(1 - inset / np.maximum(radii, 1), 0.1)
    closed = np.concatenate([inner, inner[:1]])
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    stops = np.linspace(0, travelled[-1], max(3, int(travelled[-1] / spacing)), endpoint=False)
    points = np.stack([np.interp(stops, travelled, closed[:, axis]) for axis in range(2)], axis=1)
    towards = points - centre
    return points, np.arctan2(towards[:, 1], towards[:, 0])


def _colour(paint: Paint) -> tuple[int, int, int]:
    eosin, haematoxylin, fibrous = paint
    return min(255, round(eosin * _STEPS)), min(255, round(haematoxylin * _STEPS)), round(min(1.0, fibrous) * 255)
