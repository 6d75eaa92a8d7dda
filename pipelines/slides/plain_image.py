"""A PNG, JPEG or plain TIFF image as a slide of one level, decoded in full when its pixels are first read.

OpenSlide reads none of these. The resolution in such a file is that of a screen or a printer, so it states no
micrometres per pixel here. Pixels are used as stored: an EXIF orientation and a colour profile have no effect.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from comel.errors import SlideError
from pipelines.slides.silence import libraries_silenced
from pipelines.slides.unreadable import CONVERT, COPY_OR_CONVERT, unopened

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_IMAGE_PIXELS", "PlainImage", "is_plain_image"]

MAX_IMAGE_PIXELS = 128 << 20
"""More pixels than this are refused before any is decoded: they would take more than 384 MiB of memory."""

_FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def is_plain_image(path: Path) -> bool:
    """Whether the file has a suffix of the images that :class:`PlainImage` reads."""
    return any(path.suffix.lower() in suffixes for suffixes in _FORMATS.values())


class PlainImage:
    """An image behind the part of OpenSlide's interface that :class:`pipelines.slides.slide.Slide` uses.

    Attributes:
        level_dimensions: (width, height) in pixels of the only level.
        level_downsamples: the only level's downsample, 1.
        properties: empty: the image states neither resolution nor bounds.

    Raises:
        SlideError: not an image of these formats, several pages, more than :data:`MAX_IMAGE_PIXELS`, or samples of more than 8
            bits. Nothing is decoded to find this out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pixels: Image | None = None
        with libraries_silenced():  # Pillow warns of images within this limit
            self.level_dimensions = (_checked_size(path),)
        self.level_downsamples = (1.0,)
        self.properties: dict[str, str] = {}

    def close(self) -> None:
        """Release the pixels."""
        self._pixels = None

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image:
        """Pixels as RGBA, transparent outside the image; safe from several threads.

        Args:
            location: (x, y) of the top left corner.
            level: 0.
            size: (width, height) of the region in pixels.

        Raises:
            SlideError: the image is damaged.
        """
        from PIL import Image

        with self._lock:
            if self._pixels is None:
                self._pixels = _decoded(self._path)
        pixels = self._pixels
        left, top = max(0, location[0]), max(0, location[1])
        right, bottom = min(pixels.width, location[0] + size[0]), min(pixels.height, location[1] + size[1])
        region = Image.new("RGBA", size, (0, 0, 0, 0))
        if left < right and top < bottom:
            region.paste(pixels.crop((left, top, right, bottom)), (left - location[0], top - location[1]))
        return region


def _checked_size(path: Path) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=list(_FORMATS)) as image:
            size, mode, pages = image.size, image.mode, getattr(image, "n_frames", 1)
            form = image.format
    except UnidentifiedImageError:
        raise unopened(path, path, "neither a slide that OpenSlide reads nor an image of PNG, JPEG or TIFF") from None
    except Image.DecompressionBombError:
        raise _too_large(path, "over 170 Mpx") from None
    except Exception as error:  # Pillow may raise anything on a damaged header
        raise _damaged(path, error) from None
    if size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise _too_large(path, f"{size[0]} x {size[1]} pixels")
    if form == "TIFF" and pages > 1:
        raise SlideError(f"{path}: a TIFF of {pages} pages that OpenSlide does not read", f"{CONVERT}, or save a single page")
    if form == "PNG" and _png_depth(path) > 8:
        raise SlideError(f"{path}: samples of {_png_depth(path)} bits", "save it with 8 bits per channel")
    if mode not in _EIGHT_BIT_MODES:
        raise SlideError(f"{path}: pixels of type {mode}", "save it as RGB with 8 bits per channel")
    return size


def _png_depth(path: Path) -> int:
    """Bits of a PNG's samples: Pillow silently drops the lower half of 16."""
    with open(path, "rb") as stream:
        return stream.read(25)[24]


def _decoded(path: Path) -> Image:
    """The image as RGB, transparent pixels white, without its metadata."""
    from PIL import Image

    try:
        with libraries_silenced(), Image.open(path, formats=list(_FORMATS)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise _too_large(path, f"{image.width} x {image.height} pixels")
            if not image.has_transparency_data:
                pixels = image.convert("RGB")
            else:
                layered = image.convert("RGBA")
                pixels = Image.new("RGB", image.size, "white")
                pixels.paste(layered, mask=layered)
    except SlideError:
        raise
    except Exception as error:  # Pillow may raise anything on damaged data
        raise _damaged(path, error) from None
    pixels.info.clear()
    return pixels


def _too_large(path: Path, said: str) -> SlideError:
    limit = f"at most {MAX_IMAGE_PIXELS >> 20} Mpx of an image are read whole"
    return SlideError(f"{path}: {said}, and {limit}", CONVERT)


def _damaged(path: Path, error: Exception) -> SlideError:
    said = (str(error).splitlines() or [""])[0][:160]
    return SlideError(f"{path}: the image cannot be read ({type(error).__name__}: {said})", COPY_OR_CONVERT)
