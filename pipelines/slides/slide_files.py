"""Which files a slide is made of, and a fingerprint of their content.

Most formats are one file. A MIRAX slide has a folder beside it, a Hamamatsu VMS or VMU index names its images, and a DICOM
slide is a series of files, of which OpenSlide is given any one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from comel.base.files import not_a_pipe
from comel.errors import SlideError

__all__ = ["file_to_open", "fingerprint", "slide_files"]

_BLOCK = 1 << 16
_BLOCKS = 32
_INDEX_BYTES = 1 << 20


def file_to_open(path: Path) -> Path:
    """The file to give to OpenSlide: the path itself, or of a folder that holds one DICOM series one of its files.

    Raises:
        SlideError: a folder without DICOM files, or with those of several slides.
        OSError: the folder cannot be read.
    """
    if not path.is_dir():
        return path
    import openslide

    series: dict[str, Path] = {}
    for part in _dicom_files(path):
        try:
            with openslide.OpenSlide(part) as handle:
                series.setdefault(handle.properties.get("dicom.SeriesInstanceUID", ""), part)
        except openslide.OpenSlideError:
            continue  # a folder of DICOM may hold annotations and reports too
    if not series:
        raise SlideError(f"{path}: a folder, and none of DICOM files of a slide", "give the slide's file")
    if len(series) > 1:
        names = ", ".join(part.name for part in list(series.values())[:3])
        raise SlideError(f"{path}: a folder of {len(series)} slides", f"give one file of the slide meant, such as {names}")
    return next(iter(series.values()))


def slide_files(path: Path) -> list[Path]:
    """The files that a slide's content lies in, as far as its kind tells without opening it; the path's own first.

    Of a DICOM slide that is named by one of its files it is this one alone: others of its folder may be another slide's.

    Raises:
        OSError: the files cannot be listed.
    """
    kind = path.suffix.lower()
    if path.exists():
        not_a_pipe(path)
    if path.is_dir():
        return _dicom_files(path)
    if kind == ".mrxs":
        folder = path.with_suffix("")
        return [path, *sorted(part for part in folder.iterdir() if part.is_file())] if folder.is_dir() else [path]
    if kind in (".vms", ".vmu"):
        with open(path, "rb") as stream:
            lines = stream.read(_INDEX_BYTES).decode("utf-8", errors="replace").splitlines()
        named = {line.partition("=")[2].strip() for line in lines}
        return [path, *sorted(path.parent / name for name in named if name == Path(name).name and _is_file(path.parent / name))]
    return [path]


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) over the size of each of a slide's files and 32 blocks spread over it: 2 MiB a file, however large.

    A copy has the same fingerprint, another slide under the same name has not. A DICOM slide that is named by one of its
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
    if path.suffix.lower() == ".dcm" and not path.is_dir():
        digest.update(_quick_hash(path).encode())
    return digest.hexdigest()


def _dicom_files(folder: Path) -> list[Path]:
    return sorted(part for part in folder.iterdir() if part.suffix.lower() == ".dcm" and part.is_file())


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
    except (OSError, ValueError):  # a name that no file system takes
        return False
