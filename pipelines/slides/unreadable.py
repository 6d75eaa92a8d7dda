"""Files that cannot be read, as errors that say why and what to do: the system's reasons, and those of the file."""

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
COPY_OR_CONVERT = f"copy it again; if it stays so, {CONVERT}"
"""For a file that is of no known format: a copy that was cut off looks like that, since most formats end in their index."""


def unreadable(path: Path, error: OSError, *, stage: str = "open") -> SlideError:
    """Say of ``path`` that it cannot be read, and of which part of it that is so, where it is a part.

    Args:
        path: the slide, the annotation or the folder.
        error: what the system said.
        stage: see :class:`comel.errors.SlideError`.
    """
    part = "" if error.filename is None or Path(error.filename) == path else f": {error.filename}"
    denied = isinstance(error, PermissionError)
    remedy = "check its permissions and those of its folder" if denied else "check its path and its disk"
    return SlideError(f"{path}: cannot be read ({error.strerror or error}{part})", remedy, stage=stage)


def unopened(path: Path, file: Path, said: str, *, stage: str = "open") -> SlideError:
    """Why OpenSlide does not open or read a slide, as far as its files tell.

    Args:
        path: what the user gave.
        file: the file that OpenSlide was given.
        said: what happened, in case that the files do not tell.
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
        return SlideError(f"{path}: samples of {bits} bits", "save it with 8 bits a channel", stage=stage)
    if least > size:
        said = f"{said}: the file is cut off, it has {size} bytes of at least {least}"
    return SlideError(f"{path}: {said}", COPY_OR_CONVERT, stage=stage)
