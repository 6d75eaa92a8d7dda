"""Errors for unreadable files, with the reason, from the system or the file, and a remedy."""

from __future__ import annotations

from pathlib import Path

from comel.base.files import is_dicom
from comel.errors import SlideError
from pipelines.slides.companions import check_companions
from pipelines.slides.dicom_files import check_dicom, series_beside
from pipelines.slides.other_kinds import image_without_its_suffix, jpeg_bits, kind_of
from pipelines.slides.tiff_pages import least_size

__all__ = ["CONVERT", "COPY_OR_CONVERT", "unopened", "unreadable"]

CONVERT = "convert it to a tiled pyramidal TIFF"
COPY_OR_CONVERT = f"copy it again; if that does not help, {CONVERT}"
"""For a file of unknown format: a truncated copy looks like that, since most formats end in their index."""


def unreadable(path: Path, error: OSError, *, stage: str = "open") -> SlideError:
    """The error that ``path`` cannot be read, naming the part that cannot be read, if only a part.

    Args:
        path: the slide, the annotation or the folder.
        error: the system's error.
        stage: see :class:`comel.errors.SlideError`.
    """
    part = "" if error.filename is None or Path(error.filename) == path else f": {error.filename}"
    denied = isinstance(error, PermissionError)
    remedy = "check its permissions and those of its folder" if denied else "check its path and its disk"
    return SlideError(f"{path}: cannot be read ({error.strerror or error}{part})", remedy, stage=stage)


def unopened(path: Path, file: Path, said: str, *, stage: str = "open") -> SlideError:
    """The reason why OpenSlide does not open or read a slide, as far as its files tell.

    Args:
        path: the user's path.
        file: the file given to OpenSlide.
        said: what happened, in case the files do not tell.
        stage: see :class:`comel.errors.SlideError`.
    """
    try:
        check_companions(file)
        if is_dicom(file):
            check_dicom(path, series_beside(file))
        suffix = image_without_its_suffix(file)
        size, least, kind, bits = file.stat().st_size, least_size(file), kind_of(file), jpeg_bits(file)
    except SlideError as cause:
        return SlideError(cause.what, cause.remedy, stage=stage)
    except OSError as error:
        return unreadable(path, error, stage=stage)
    if suffix is not None:
        return SlideError(f"{path}: {said}, but an image", f"rename it to {path.stem}{suffix}", stage=stage)
    if kind is not None:
        return SlideError(f"{path}: {said}, but {kind}", CONVERT, stage=stage)
    if bits is not None and bits > 8:
        return SlideError(f"{path}: samples of {bits} bits", "save it with 8 bits per channel", stage=stage)
    if least > size:
        said = f"{said}: the file is truncated to {size} of at least {least} bytes"
    return SlideError(f"{path}: {said}", COPY_OR_CONVERT, stage=stage)
