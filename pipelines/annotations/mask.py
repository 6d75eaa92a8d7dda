"""Mask images as annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comel.bags.bag import TileGeometry
from comel.errors import SlideError
from pipelines.annotations.problems import annotation_error
from pipelines.slides.coverage import area_fraction
from pipelines.slides.silence import libraries_silenced

__all__ = ["MASK_SUFFIXES", "MarkedMask", "read_mask"]

MASK_SUFFIXES = {".png", ".tif", ".tiff"}
_MOST_ASPECT_MISMATCH = 0.02
_MAX_MASK_PIXELS = 128 << 20


class MarkedMask:
    """A mask image of a whole slide; see :class:`pipelines.annotations.Annotation`.

    Args:
        path: the image, covering all of level 0 at any scale.
        width, height: the slide's size in level-0 pixels.

    Raises:
        SlideError: it cannot be read, or its aspect ratio differs from the slide's (stage "annotation").
    """

    def __init__(self, path: Path, width: int, height: int) -> None:
        self.classes: tuple[str, ...] = ()
        self.without_area = False
        self._path, self._mask = path, read_mask(path)
        rows, columns = self._mask.shape
        self._scale_x, self._scale_y = width / columns, height / rows
        # The sides of a small mask are rounded to whole pixels.
        allowed = max(_MOST_ASPECT_MISMATCH, 1 / columns + 1 / rows)
        if abs(self._scale_x / self._scale_y - 1) > allowed:
            raise annotation_error(
                path,
                f"a mask of {columns} x {rows} px does not fit a slide of {width} x {height} px",
                "give the mask of this slide, covering all of level 0",
            )

    def extent(self, classes: Sequence[str] = ()) -> Literal["nothing", "a part", "everything"]:
        return "everything" if self._mask.all() else "a part" if self._mask.any() else "nothing"

    def share(self, coords: np.ndarray, geometry: TileGeometry, classes: Sequence[str] = ()) -> np.ndarray:
        if classes:
            raise annotation_error(
                self._path, f"a mask has no classes such as '{classes[0]}'", "do not name classes, or give QuPath or ASAP files"
            )
        return area_fraction(self._mask, self._scale_x, self._scale_y, coords, geometry.tile_width, geometry.tile_height)


def read_mask(path: Path) -> np.ndarray:
    """A mask image as (h, w) bool: true where a pixel is neither zero nor transparent.

    Of a TIFF pyramid the finest level that fits the memory limit is read.

    Raises:
        SlideError: it cannot be read, or is too large (stage "annotation").
    """
    import tifffile
    from PIL import Image

    try:
        if path.suffix.lower() != ".png":
            with libraries_silenced(), tifffile.TiffFile(path) as tiff:
                for level in tiff.series[0].levels:
                    pixels = int(np.prod(level.shape, dtype=object))
                    if pixels * level.dtype.itemsize <= 4 * _MAX_MASK_PIXELS:
                        return _marked(_samples_last(path, level.asarray(), level.axes), _has_alpha(level.keyframe))
            raise _too_large(path)
        with libraries_silenced(), Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > _MAX_MASK_PIXELS:
                raise _too_large(path)
            alpha = image.mode.endswith("A")
            values = np.asarray(image)
        return _marked(values[..., None] if values.ndim == 2 else values, alpha)
    except SlideError:
        raise
    except Exception as error:  # image libraries may raise anything on a damaged file
        raise annotation_error(path, f"the mask cannot be read ({type(error).__name__})", "save it again as PNG") from error


def _too_large(path: Path) -> SlideError:
    return annotation_error(path, f"a mask of more than {_MAX_MASK_PIXELS >> 20} Mpx", "save it at a lower resolution")


def _marked(values: np.ndarray, alpha: bool) -> np.ndarray:
    """(h, w) bool from samples (h, w, S), the last of which may be the pixel's alpha."""
    marked: np.ndarray = np.any(values[..., :-1], axis=-1) & (values[..., -1] > 0) if alpha else np.any(values, axis=-1)
    return marked


def _has_alpha(page: Any) -> bool:
    """Whether the last sample of a TIFF's pixels is alpha: if the file says so, or if it has one sample more than its
    colours need without saying what for, as programs write that omit the tag."""
    from tifffile import EXTRASAMPLE, PHOTOMETRIC

    if page.extrasamples:
        return bool(page.extrasamples[-1] != EXTRASAMPLE.UNSPECIFIED or len(page.extrasamples) == 1)
    colours = {PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.RGB: 3}.get(page.photometric)
    return colours is not None and page.samplesperpixel == colours + 1


def _samples_last(path: Path, values: np.ndarray, axes: str) -> np.ndarray:
    axes = "".join(axes)
    if axes in ("YXS", "SYX"):
        return np.moveaxis(values, axes.index("S"), -1)
    if axes == "YX":
        return values[..., None]
    raise annotation_error(path, f"a mask with axes {axes}", "save it as one two-dimensional image")
