"""The files that a slide consists of, and a fingerprint of their content.

Most formats are one file. A MIRAX slide has a folder beside it, a Hamamatsu VMS or VMU index names its images, and a DICOM
slide is a series of files, any one of which OpenSlide can open.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from comel.base.files import is_dicom, not_a_pipe
from comel.errors import SlideError
from pipelines.slides.companions import ini_values
from pipelines.slides.dicom_files import dicom_files, read_dicom

__all__ = ["file_to_open", "fingerprint", "slide_files"]

_BLOCK = 1 << 16
_BLOCKS = 32


def file_to_open(path: Path) -> Path:
    """The file for OpenSlide: the path itself or, for a folder with one DICOM series, one of its files.

    Raises:
        SlideError: a folder without DICOM files, or with those of several slides.
        OSError: the folder cannot be read.
    """
    if not path.is_dir():
        return path
    found = [read_dicom(part) for part in dicom_files(path)]
    series: dict[str, Path] = {}
    for part in found:
        # A DICOM folder may also hold labels, annotations and reports.
        if part is not None and part.is_slide and part.is_level:
            series.setdefault(part.series, part.path)
    if not series:
        held = "DICOM files, but not an image of a slide" if found else "a folder, but not of a slide's DICOM files"
        raise SlideError(f"{path}: {held}", "give the slide's file")
    if len(series) > 1:
        names = ", ".join(part.name for part in list(series.values())[:3])
        raise SlideError(f"{path}: a folder of {len(series)} slides", f"give one file of the slide meant, such as {names}")
    return next(iter(series.values()))


def slide_files(path: Path) -> list[Path]:
    """The files of a slide's content, as far as its kind tells without opening it; the path's own first.

    For a DICOM slide named by one of its files, only that file: others in its folder may belong to another slide.

    Raises:
        OSError: the files cannot be listed.
    """
    kind = path.suffix.lower()
    if path.exists():
        not_a_pipe(path)
    if path.is_dir():
        return dicom_files(path)
    if kind == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(part for part in folder.iterdir() if part.is_file())] if folder.is_dir() else [path]
    if kind in (".vms", ".vmu"):
        named = {value for _, value in ini_values(path)}
        return [path, *sorted(path.parent / name for name in named if name == Path(name).name and _is_file(path.parent / name))]
    return [path]


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) over the size of each of a slide's files and 32 blocks spread over it: 2 MiB per file, however large.

    A copy has the same fingerprint; another slide under the same name does not. A DICOM slide that is named by one of its
    files adds OpenSlide's quick hash, which is over the unique names of all its levels.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for part in slide_files(path):
        size = part.stat().st_size
        digest.update(f"{size}:".encode())
        with open(part, "rb") as stream:
            for block in range(_BLOCKS):
                stream.seek(max(0, size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    if is_dicom(path):
        digest.update(_quick_hash(path).encode())
    return digest.hexdigest()


def _quick_hash(path: Path) -> str:
    import openslide

    try:
        with openslide.OpenSlide(path) as handle:
            return handle.properties.get("openslide.quickhash-1", "")
    except openslide.OpenSlideError:
        return ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system accepts
        return False
