"""DICOM files of slides: recognised by their content, with the properties of the pixels in their headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comel.base.files import is_dicom
from comel.errors import SlideError
from pipelines.slides.silence import libraries_silenced

__all__ = ["DicomFile", "check_dicom", "dicom_files", "level_mpps", "read_dicom", "series_beside"]

_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
"""Transfer syntaxes that OpenSlide decodes: uncompressed, JPEG baseline, and JPEG 2000 with and without loss."""
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "ConcatenationUID",
    "SeriesInstanceUID",
    "ImageType",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixFocalPlanes",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "SharedFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class DicomFile:
    """The header of a DICOM file.

    Attributes:
        path: the file.
        is_slide: whether it holds an image of a slide, and not an annotation, a report or another modality's image.
        series: the unique name of its series; a slide's levels form one series.
        is_level: whether it is a level, and not the label, the overview or a thumbnail.
        size: (width, height) of the level in pixels.
        mpp: micrometres per pixel (x, y), if stated.
        syntax: the transfer syntax, by which its pixels are encoded.
        samples, bits: channels of a pixel, and bits of each (as stored, and as used).
        focal_planes: number of them.
        image: the unique name of the image; the parts of a concatenation share one.
    """

    path: Path
    is_slide: bool
    series: str
    is_level: bool
    size: tuple[int, int]
    mpp: tuple[float, float] | None
    syntax: str
    samples: int
    bits: tuple[int, int]
    focal_planes: int
    image: str


def dicom_files(folder: Path) -> list[Path]:
    """The files in a folder that are DICOM by their content or by the suffix ``.dcm``, by name.

    Raises:
        OSError: the folder or a file cannot be read.
    """
    return sorted(part for part in folder.iterdir() if part.is_file() and (part.suffix.lower() == ".dcm" or is_dicom(part)))


def read_dicom(path: Path) -> DicomFile | None:
    """The header of a DICOM file; None if it cannot be parsed."""
    import pydicom

    try:
        with libraries_silenced():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            image_type = [str(word) for word in header.get("ImageType") or []]
            return DicomFile(
                path=path,
                is_slide=str(header.get("SOPClassUID", "")) == _SLIDE,
                series=str(header.get("SeriesInstanceUID", "")),
                is_level=len(image_type) < 3 or image_type[2] == "VOLUME",
                size=(int(header.get("TotalPixelMatrixColumns") or 0), int(header.get("TotalPixelMatrixRows") or 0)),
                mpp=_spacing(header),
                syntax=str(header.file_meta.get("TransferSyntaxUID", "")),
                samples=int(header.get("SamplesPerPixel") or 0),
                bits=(int(header.get("BitsAllocated") or 0), int(header.get("BitsStored") or 0)),
                focal_planes=int(header.get("TotalPixelMatrixFocalPlanes") or 1),
                image=str(header.get("ConcatenationUID") or header.get("SOPInstanceUID", "")),
            )
    except Exception:  # pydicom may raise anything on a damaged header
        return None


def series_beside(path: Path) -> list[DicomFile]:
    """The levels of the slide that a DICOM file belongs to: its series' levels in its folder.

    Raises:
        OSError: the folder or a file of it cannot be read.
    """
    own = read_dicom(path)
    if own is None:
        return []
    others = [read_dicom(part) for part in dicom_files(path.parent) if part != path]
    return [own, *(part for part in others if part is not None and part.series == own.series)]


def level_mpps(files: Sequence[DicomFile], dimensions: Sequence[tuple[int, int]]) -> list[tuple[float, float] | None]:
    """Micrometres per pixel (x, y) of each level; None if none is stated or the files of a level disagree.

    Args:
        files: the files of one series.
        dimensions: (width, height) of each level.
    """
    stated = [{part.mpp for part in files if part.is_level and part.size == size} for size in dimensions]
    return [next(iter(mpps)) if len(mpps) == 1 else None for mpps in stated]


def check_dicom(path: Path, files: Sequence[DicomFile]) -> None:
    """Refuse a series that OpenSlide does not read, naming the reason.

    Args:
        path: the user's path, for messages.
        files: the series' files.

    Raises:
        SlideError: another kind of image, another encoding of pixels than OpenSlide decodes, samples other than three of 8
            bits, or several focal planes.
    """
    if not any(part.is_slide for part in files):
        raise SlideError(f"{path}: DICOM, but not an image of a slide", "give a file of the modality SM (slide microscopy)")
    levels = [part for part in files if part.is_slide and part.is_level]
    if not levels:
        raise SlideError(f"{path}: a label or an overview, not a level of its slide", "give the folder of the whole series")
    for part in levels:
        where = f"{path}: {part.path.name}: " if part.path != path else f"{path}: "
        if part.focal_planes > 1:
            raise SlideError(f"{where}{part.focal_planes} focal planes", "export the intended plane as its own series")
        if part.samples != 3:
            said = f"{part.samples} channel{'s' * (part.samples != 1)} per pixel instead of red, green and blue"
            raise SlideError(f"{where}{said}", "export it in colour; fluorescence is not read")
        if part.bits != (8, 8):
            raise SlideError(f"{where}samples of {max(part.bits)} bits", "export it with 8 bits per channel")
        if part.syntax not in _SYNTAXES:
            said = f"its pixels are encoded as {_syntax_name(part.syntax)}, which is not decoded here"
            raise SlideError(f"{where}{said}", "convert its pixels to JPEG or JPEG 2000, for instance with dcm4che or GDCM")
    for part in levels:
        twins = [other for other in levels if other.size == part.size and other.image != part.image]
        if twins:
            names = f"{part.path.name} and {twins[0].path.name}"
            what = f"{path}: two images of {part.size[0]} x {part.size[1]} px in one series, {names}"
            raise SlideError(what, "remove the unintended one (another plane, scan or level) from the folder")


def _spacing(header: Any) -> tuple[float, float] | None:
    """From the shared functional groups, in which the row spacing comes first, in millimetres."""
    try:
        y, x = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        return (float(x) * 1000, float(y) * 1000) if x > 0 and y > 0 else None
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _syntax_name(syntax: str) -> str:
    from pydicom.uid import UID

    with libraries_silenced():
        return UID(syntax).name if syntax else "an unnamed syntax"
