"""Where on the slide the evidence lies, as a picture.

Colours mean the same on every slide: the scale is 0 to 1 and is never stretched, so a slide without evidence does not light
up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from comel.base.thresholds import all_equal
from comel.errors import ComelError
from comel.prediction.prediction import Prediction
from comel.prediction.raster import RasterTransform, sample_raster, score_raster

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COLOUR_MAPS", "PNG_EFFORT", "check_width", "colour_table", "draw_map", "map_size"]

COLOUR_MAPS = ("viridis", "magma", "inferno", "cividis", "turbo")
"""The colour maps that a viewer offers; :func:`draw_map` accepts every other that matplotlib knows as well."""
PNG_EFFORT = 1
"""zlib's level for map pictures: over tissue, more effort takes four times as long and makes the file no smaller."""

MAX_MAP_PIXELS = 24_000_000
MAX_MAP_SIDE = 30_000
"""Pixels along a side; browsers and picture libraries show no more than 32,767."""
MIN_MAP_WIDTH = 256

_CANVAS, _FOOTPRINT, _FOOTER, _INK, _FAINT_INK = (
    (250, 250, 250),
    (222, 225, 230),
    (255, 255, 255),
    (28, 30, 34),
    (104, 108, 116),
)
_OUTLINE = (20, 20, 24)


def draw_map(
    prediction: Prediction,
    thumbnail: Image | None,
    *,
    width: int = 1024,
    alpha: float = 0.6,
    colormap: str = "viridis",
    threshold: float | None = None,
    tallest: int = MAX_MAP_SIDE,
) -> Image:
    """The scores laid over the slide, with a colour bar and a caption below.

    Tiles from the threshold on are outlined; opacity grows with the score, so tissue with low scores stays visible.

    Args:
        prediction: the scores to draw. Without geometry the map shows only the tiles, placed by their coordinates' spacing.
        thumbnail: the whole level-0 extent at any size, or None for a light canvas with the tile footprints.
        width: the picture's width in pixels; the height follows the slide's shape, plus the caption below. A slide that is
            too tall or too wide is drawn smaller (:func:`map_size`), and the caption says so.
        alpha: opacity of a tile with score 1.
        colormap: a name that matplotlib knows.
        tallest: the largest height of the picture in pixels.
        threshold: the score to outline from and to mark on the colour bar, or None for the prediction's own.

    Raises:
        ComelError: a setting out of range, no coordinates, or a thumbnail whose shape is not the slide's.
    """
    from PIL import Image as Images

    threshold = prediction.threshold if threshold is None else threshold
    for name, value in (("alpha", alpha), ("threshold", threshold)):
        if not 0.0 <= value <= 1.0:
            raise ComelError(f"{name} {value:g} is not between 0 and 1", f"give a {name} from 0 to 1")
    check_width(width)
    colours = colour_table(colormap)
    raster, transform = score_raster(prediction)
    geometry, extent = prediction.geometry, _extent(prediction, raster, transform)
    size = _fitting(width, extent, tallest)
    scores = sample_raster(raster, transform, size, extent)
    covered = ~np.isnan(scores)
    if thumbnail is not None and geometry is not None:
        shape_error = thumbnail.width * extent[3] / (thumbnail.height * extent[2]) - 1.0
        if abs(shape_error) > 0.02 + 1.0 / min(thumbnail.size):
            shapes = f"{thumbnail.width} x {thumbnail.height} against {geometry.level0_width} x {geometry.level0_height}"
            raise ComelError(
                f"{prediction.slide_id}: the thumbnail does not have the slide's shape ({shapes})",
                "give the whole slide's thumbnail",
            )
        base = np.asarray(thumbnail.convert("RGB").resize(size, Images.Resampling.LANCZOS), np.float32)
    else:
        base = np.where(covered[..., None], np.array(_FOOTPRINT, np.float32), np.array(_CANVAS, np.float32))
    filled = np.where(covered, scores, 0.0)
    opacity = (alpha * filled)[..., None]
    blended = base + opacity * (colours[np.rint(filled * 255).astype(np.uint8)] - base)
    if threshold <= 0 or not all_equal(prediction.instance_scores):
        blended[_edges(covered & (filled >= np.float32(threshold)))] = _OUTLINE
    picture = Images.fromarray(np.rint(blended).astype(np.uint8))
    ground = base[covered].mean(axis=0) if covered.any() else np.array(_FOOTPRINT, np.float32)
    room = max(picture.width, MIN_MAP_WIDTH)
    lines = _caption(prediction, threshold, "" if picture.width == width else f"drawn {picture.width} px wide, not {width}")
    footer = _footer(lines, room, alpha, threshold, colours, ground)
    frame = Images.new("RGB", (room, picture.height + footer.height), _FOOTER)
    frame.paste(picture, (0, 0))
    frame.paste(footer, (0, picture.height))
    return frame


def map_size(prediction: Prediction, width: int) -> tuple[int, int]:
    """Width and height in pixels of a map of ``width`` pixels, without its caption.

    If that exceeds :data:`MAX_MAP_PIXELS` or :data:`MAX_MAP_SIDE`, as for a needle biopsy scanned as one strip, it is the
    largest size of the slide's shape that does not.

    Raises:
        ComelError: no coordinates, or a slide without a size.
    """
    return _fitting(width, _extent(prediction, *score_raster(prediction)))


def _extent(prediction: Prediction, raster: np.ndarray, place: RasterTransform) -> tuple[float, float, float, float]:
    """Left, top, width and height, in level-0 pixels, of what the map shows: the slide, or the tiles if its size is unknown."""
    geometry = prediction.geometry
    if geometry is None:
        return place.origin_x, place.origin_y, *_sides(raster, place)
    if not (geometry.level0_width > 0 and geometry.level0_height > 0):
        raise ComelError(
            f"{prediction.slide_id}: a slide of {geometry.level0_width:g} x {geometry.level0_height:g} level-0 px has no map",
            "check the level-0 size in the bag",
        )
    return 0.0, 0.0, float(geometry.level0_width), float(geometry.level0_height)


def _sides(raster: np.ndarray, place: RasterTransform) -> tuple[float, float]:
    return max(1, raster.shape[1]) * place.cell_width, max(1, raster.shape[0]) * place.cell_height


def _fitting(width: int, extent: tuple[float, float, float, float], tallest: int = MAX_MAP_SIDE) -> tuple[int, int]:
    shape = extent[3] / extent[2]
    most = min(float(width), math.sqrt(MAX_MAP_PIXELS / shape), MAX_MAP_SIDE, tallest / shape)
    across = max(1, int(most))
    return across, min(tallest, max(1, round(across * shape)))


def check_width(width: int) -> None:
    """Raise :class:`ComelError` if a map of ``width`` pixels has no room for its caption."""
    if width < MIN_MAP_WIDTH:
        raise ComelError(f"a map of {width} px has no room for its caption", f"give a width of at least {MIN_MAP_WIDTH}")


def _edges(mask: np.ndarray) -> np.ndarray:
    """The border pixels of a mask, one pixel wide and inside it; the picture's own edge does not count."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    outline: np.ndarray = mask & ~inner
    return outline


def _footer(lines: Sequence[str], width: int, alpha: float, threshold: float, colours: np.ndarray, ground: np.ndarray) -> Image:
    """Caption on the left; on the right the colour bar with 0, the threshold and 1, as it looks over the tiles' mean colour."""
    from PIL import Image as Images
    from PIL import ImageDraw

    text_size = int(np.clip(width / 62, 9, 40))
    line, margin = round(text_size * 1.45), round(text_size * 0.8)
    footer = Images.new("RGB", (width, len(lines) * line + 2 * margin), _FOOTER)
    pen, font = ImageDraw.Draw(footer), _font(text_size)
    bar_left, bar_height = round(width * 0.62), round(text_size * 0.9)
    bar_width, top = width - bar_left - 2 * margin, margin + round(1.2 * line)
    for number, text in enumerate(lines):
        ink = _INK if number < 2 else _FAINT_INK
        pen.text((margin, margin + number * line), _shorten(text, bar_left - 2 * margin, font), fill=ink, font=font)
    pen.text((bar_left, margin), "tile score", fill=_FAINT_INK, font=font)
    scores = np.linspace(0.0, 1.0, bar_width, dtype=np.float32)
    bar = np.rint(ground + (alpha * scores)[:, None] * (colours[np.rint(scores * 255).astype(np.uint8)] - ground))
    footer.paste(Images.fromarray(np.tile(bar.astype(np.uint8), (bar_height, 1, 1))), (bar_left, top))
    pen.rectangle((bar_left - 1, top - 1, bar_left + bar_width, top + bar_height), outline=_FAINT_INK)
    mark, reach, below = (
        bar_left + round(threshold * (bar_width - 1)),
        text_size // 4,
        top + bar_height + max(3, text_size // 3),
    )
    pen.line((mark, top - reach, mark, top + bar_height + reach), fill=_OUTLINE, width=max(1, text_size // 8))
    label = f"{threshold:.2f}"
    half = pen.textlength(label, font=font) / 2
    for text, x, anchor in (("0", bar_left, "la"), ("1", bar_left + bar_width, "ra")):
        if abs(mark - x) > half + text_size:
            pen.text((x, below), text, fill=_FAINT_INK, font=font, anchor=anchor)
    centre = min(max(float(mark), bar_left + half), bar_left + bar_width - half)
    pen.text((centre, below), label, fill=_INK, font=font, anchor="ma")
    return footer


def _caption(prediction: Prediction, threshold: float, shrunk: str) -> tuple[str, ...]:
    if prediction.predicted_class is None or prediction.confidence is None:
        said = "; ".join(("no prediction", *prediction.notes))
    else:
        said = f"{prediction.predicted_class}  {prediction.confidence:.2f}"
    count = len(prediction.instance_scores)
    if threshold > 0 and all_equal(prediction.instance_scores):
        tiles = f"{count} tiles, all {float(prediction.instance_scores.mean()):.2f}: none marked"
    else:
        tiles = f"{int(prediction.tiles_from(threshold).sum())} of {count} tiles ≥ {threshold:.2f}"
    return (prediction.slide_id, said, tiles, *[shrunk] * bool(shrunk), "research use only")


def _shorten(text: str, width: float, font: Any) -> str:
    """The text, cut with an ellipsis if it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@lru_cache(maxsize=8)
def colour_table(name: str) -> np.ndarray:
    """(256, 3) float32 colours, 0 to 255, of a matplotlib colour map.

    Raises:
        ComelError: there is no colour map of this name.
    """
    import matplotlib

    if name not in matplotlib.colormaps:
        raise ComelError(f"colour map {name!r} is not known", "give a name that matplotlib knows, such as inferno or viridis")
    return np.asarray(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3], np.float32)
