"""Thumbnails of what a slide can look like from afar, with the truth: pale or holed tissue, ink, dust, edges, IHC, folds.

Drawn in optical density, where layers of stain and ink add up (Beer and Lambert), at 8 micrometres per pixel. The colours are
those of common stains and markers; nothing is taken from a slide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipelines.synth.fields import smooth_noise, tissue_field

__all__ = ["INKS", "SITUATIONS", "Situation", "draw_situation"]

MPP = 8.0
_SIDE, _TISSUE_SIDE, _MARGIN = 500, 300, 120
_GLASS = np.array((243, 242, 244)) / 255
_HEMATOXYLIN, _EOSIN, _DAB = (0.65, 0.70, 0.29), (0.14, 0.80, 0.45), (0.27, 0.57, 0.78)
INKS = {"red": (196, 32, 48), "green": (24, 128, 72), "blue": (38, 62, 168), "black": (26, 26, 30)}
"""RGB of light that passed through a stroke of a marker."""


@dataclass
class Situation:
    """A thumbnail of 8 um/px under construction, with its truth.

    Attributes:
        random: where all chance comes from.
        density: (h, w, 3) float, optical density over the glass.
        tissue, ink, fold: (h, w) bool: what is there.
    """

    random: np.random.Generator
    density: np.ndarray = field(default_factory=lambda: np.zeros((_SIDE, _SIDE, 3)))
    tissue: np.ndarray = field(default_factory=lambda: np.zeros((_SIDE, _SIDE), bool))
    ink: np.ndarray = field(default_factory=lambda: np.zeros((_SIDE, _SIDE), bool))
    fold: np.ndarray = field(default_factory=lambda: np.zeros((_SIDE, _SIDE), bool))
    glass: np.ndarray = field(default_factory=lambda: _GLASS)

    @property
    def pixels(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB, with the noise of a camera."""
        light = self.glass * 10**-self.density + self.random.normal(0, 1.5 / 255, self.density.shape)
        pixels: np.ndarray = np.clip(np.rint(light * 255), 0, 255).astype(np.uint8)
        return pixels

    @property
    def usable(self) -> np.ndarray:
        """(h, w) bool: tissue that no ink covers."""
        usable: np.ndarray = self.tissue & ~self.ink
        return usable


def draw_situation(name: str, seed: int = 0) -> Situation:
    """One of :data:`SITUATIONS`, the same for the same seed."""
    situation = Situation(np.random.default_rng(seed))
    SITUATIONS[name](situation)
    return situation


def _outline(situation: Situation) -> np.ndarray:
    """Puts a piece of tissue on the slide; returns its mask."""
    piece = tissue_field(situation.random, 8 * _TISSUE_SIDE) > 0
    inside = slice(_MARGIN, _MARGIN + _TISSUE_SIDE)
    situation.tissue[inside, inside] = piece
    return situation.tissue


def _noise(situation: Situation, wavelength: float, spread: float) -> np.ndarray:
    return np.exp(spread * smooth_noise(situation.random, _SIDE, wavelength))


def _add(situation: Situation, amount: np.ndarray, stain: tuple[float, float, float]) -> None:
    situation.density += amount[..., None] * np.array(stain)


def _stained(situation: Situation, strength: float = 1.0) -> None:
    """H&E: cells, stroma, and a few dense follicles of lymphocytes."""
    tissue = _outline(situation) * _noise(situation, 3, 0.15)
    follicles = np.clip(smooth_noise(situation.random, _SIDE, 60) - 1.3, 0, 0.6)
    cells = 0.28 * _noise(situation, 25, 0.35) + follicles
    _add(situation, strength * tissue * cells, _HEMATOXYLIN)
    _add(situation, strength * tissue * 0.32 * _noise(situation, 40, 0.35), _EOSIN)


def _pale(situation: Situation) -> None:
    _stained(situation, strength=0.17)


def _tinted(situation: Situation) -> None:
    situation.glass = np.array((240, 229, 214)) / 255
    _stained(situation)


def _holed(situation: Situation) -> None:
    """Gaps of 0.2 to 0.6 mm, with a little dirt on the glass below."""
    _stained(situation)
    rows, columns = np.nonzero(situation.tissue)
    grid = np.mgrid[:_SIDE, :_SIDE]
    for radius in (12, 17, 20, 25, 30, 38):
        pick = situation.random.integers(len(rows))
        hole = np.hypot(grid[0] - rows[pick], grid[1] - columns[pick]) < radius
        situation.tissue &= ~hole
        situation.density[hole] = 0.004


def _strokes(situation: Situation, colour: str) -> None:
    """A letter beside the tissue, a line around a part of it that crosses its border, 0.3 to 0.5 mm wide."""
    import cv2

    canvas = np.zeros((_SIDE, _SIDE), np.uint8)
    letter = np.array([(40, 90), (40, 30), (75, 70), (110, 30), (110, 90)])
    cv2.polylines(canvas, [letter], False, 255, 40 // 3, cv2.LINE_AA)
    cv2.ellipse(canvas, (390, 270), (95, 140), 15, 60, 330, 255, 55, cv2.LINE_AA)
    share = cv2.GaussianBlur(canvas, (0, 0), 1.0).astype(np.float64) / 255
    situation.ink |= share > 0.5
    ink = -np.log10(np.array(INKS[colour]) / 255)
    _add(situation, share * _noise(situation, 30, 0.12), tuple(ink))


def _inked(colour: str) -> Callable[[Situation], None]:
    def draw(situation: Situation) -> None:
        _stained(situation)
        _strokes(situation, colour)

    return draw


def _dusty(situation: Situation) -> None:
    """Specks of 30 to 110 um in grey, brown and blue, and smudges out of focus."""
    import cv2

    _stained(situation)
    for _ in range(120):
        speck = np.zeros((_SIDE, _SIDE), np.uint8)
        centre = tuple(int(value) for value in situation.random.integers(0, _SIDE, 2))
        cv2.circle(speck, centre, int(situation.random.integers(2, 7)), 255, -1, cv2.LINE_AA)
        colour = situation.random.choice([(0.5, 0.5, 0.5), (0.3, 0.5, 0.7), (0.6, 0.4, 0.2)])
        _add(situation, speck / 255, tuple(colour))
    smudges = np.clip(smooth_noise(situation.random, _SIDE, 90) - 1.2, 0, 0.5)
    _add(situation, 0.5 * smudges, (1.0, 1.0, 0.98))


def _edges(situation: Situation) -> None:
    """The edge of the cover slip: a brownish line, straight across the slide, and grey beyond it."""
    _stained(situation)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    beyond = rows - 0.04 * columns - 440
    _add(situation, np.exp(-((beyond / 2.0) ** 2)), (0.35, 0.45, 0.60))
    _add(situation, 0.06 * (beyond > 0), (1.0, 1.0, 1.0))


def _border(situation: Situation) -> None:
    """What a scanner stores outside the slide: black at two sides, with a dark grey fringe."""
    _stained(situation)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    depth = np.minimum(rows - 35, _SIDE - 25 - columns)
    _add(situation, np.clip(1.2 - depth / 4, 0, 2.0), (1.0, 1.0, 1.0))


def _ihc(situation: Situation, strength: float = 1.0, positive: float = 0.35) -> None:
    """Blue counterstain, and nests of brown."""
    tissue = _outline(situation) * _noise(situation, 3, 0.15)
    nests = np.clip(smooth_noise(situation.random, _SIDE, 45) + positive - 0.3, 0, 1.2)
    _add(situation, strength * tissue * 0.16 * _noise(situation, 25, 0.35), (0.72, 0.62, 0.30))
    _add(situation, strength * tissue * 0.6 * nests, _DAB)


def _ihc_negative(situation: Situation) -> None:
    _ihc(situation, strength=0.45, positive=-9.0)


def _folded(situation: Situation) -> None:
    """Two folds: threefold thickness in bands 80 to 120 um wide."""
    import cv2

    _stained(situation)
    canvas = np.zeros((_SIDE, _SIDE), np.uint8)
    cv2.polylines(canvas, [np.array([(190, 200), (240, 260), (250, 340)])], False, 255, 14, cv2.LINE_AA)
    cv2.polylines(canvas, [np.array([(300, 180), (330, 300)])], False, 255, 10, cv2.LINE_AA)
    share = canvas / 255 * situation.tissue
    situation.fold |= share > 0.5
    situation.density *= 1 + 2 * share[..., None]


def _glass_only(situation: Situation) -> None:
    smudges = np.clip(smooth_noise(situation.random, _SIDE, 120), 0, 1)
    _add(situation, 0.012 * smudges, (1.0, 1.0, 1.0))


SITUATIONS: dict[str, Callable[[Situation], None]] = {
    "H&E": _stained,
    "pale H&E": _pale,
    "tinted glass": _tinted,
    "holes": _holed,
    **{f"{colour} pen": _inked(colour) for colour in INKS},
    "dust": _dusty,
    "cover-slip edge": _edges,
    "scanner border": _border,
    "IHC": _ihc,
    "IHC, negative": _ihc_negative,
    "folds": _folded,
    "bare glass": _glass_only,
}
"""What is drawn, by name."""
