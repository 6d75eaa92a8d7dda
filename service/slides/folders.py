"""The slides of the configured folders, by ids that do not reveal their location.

A slide is a file, or a folder of DICOM files, as in the manifests. Its id is a keyed hash of its slide folder's number and its
path below it: the same after a restart, and of no use to guess names from. Answers have the id and the name, never the path.
Files with a slide's suffix that are not listed are counted: links, names that are not text, non-files, unreadable files.
"""

from __future__ import annotations

import os
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from comel.base.files import is_dicom
from comel.errors import ComelError
from pipelines.slides.slide_files import slide_files
from service.errors import NotFoundError
from service.ids import is_name

__all__ = ["ListedSlide", "SlideFolders", "is_slide_id", "resolve_slide"]

SUFFIXES = frozenset(
    ".svs .tif .tiff .ndpi .vms .vmu .scn .mrxs .bif .svslide .czi .png .jpg .jpeg".split()  # noqa: SIM905
)
DICOM = ".dcm"
FEW = 16
MAX_LISTED = 100_000
FRESH_SECONDS = 10.0
AGAIN_SECONDS = 1.0
_REMEDY = "name a slide that lies below the slide folder"


@dataclass(frozen=True, order=True)
class ListedSlide:
    """A slide: its name, the number of its folder in the settings, its id, its size in bytes, and where it lies."""

    name: str
    root: int
    id: str
    size_bytes: int
    path: Path


class SlideFolders:
    """The content of the slide folders; rescanned if the last scan is older than ten seconds.

    Args:
        roots: the folders.
        pseudonym: names to ids; :meth:`service.access.audit.AuditLog.pseudonym`.
        note: called with the number of unlisted files when it has changed.
    """

    def __init__(
        self, roots: Sequence[Path], pseudonym: Callable[[str], str], note: Callable[[int], None] = lambda count: None
    ) -> None:
        self.roots = tuple(roots)
        self._pseudonym, self._note = pseudonym, note
        self._lock = threading.Lock()
        self._listed: dict[str, ListedSlide] = {}
        self._looked = -FRESH_SECONDS
        self.unlisted = 0

    def listing(self) -> list[ListedSlide]:
        """All slides, by name."""
        with self._lock:
            if time.monotonic() - self._looked >= FRESH_SECONDS:
                self._look()
            return sorted(self._listed.values())

    def find(self, id_or_path: str) -> Path:
        """The slide of an id, or of a path below one of the folders (the first that has it).

        Raises:
            NotFoundError: there is none.
            ComelError: no folder is set, or the path is absolute or leads outside.
        """
        return self._path_of(id_or_path) if is_slide_id(id_or_path) else self._resolve(id_or_path)

    def id_of(self, path: Path) -> str | None:
        """The id of a slide, None if it lies in no slide folder; of a DICOM file it is its folder's."""
        if path.suffix.lower() == DICOM and path.is_file():
            path = path.parent
        for number, root in enumerate(self.roots):
            base = root.resolve()
            if path.is_relative_to(base):
                return self._id(number, path.relative_to(base))
        return None

    def _path_of(self, identifier: str) -> Path:
        with self._lock:
            # Repeated requests for a missing slide must not rescan the folders each time.
            if identifier not in self._listed and time.monotonic() - self._looked >= AGAIN_SECONDS:
                self._look()
            listed = self._listed.get(identifier)
        # A listed file may have become a link that leads outside.
        if listed is None or not _is_slide(listed.path) or listed.path.resolve() != listed.path:
            raise NotFoundError("there is no slide of this id", "use an id that GET /v1/slides gives")
        return listed.path

    def _resolve(self, name: str) -> Path:
        if not self.roots:
            return resolve_slide(None, name)
        for root in self.roots:
            with suppress(NotFoundError):
                return resolve_slide(root, name)
        if (path := self._otherwise_written(name)) is not None:
            return path
        raise NotFoundError(f"{name}: no such slide", _REMEDY)

    def _otherwise_written(self, name: str) -> Path | None:
        """A listed slide whose name has the same letters in another Unicode form, as file systems and keyboards mix them."""
        if name.isascii():
            return None
        wanted = unicodedata.normalize("NFC", name)
        for slide in self.listing():
            below = slide.path.relative_to(self.roots[slide.root].resolve()).as_posix()
            if unicodedata.normalize("NFC", below) == wanted and slide.path.resolve() == slide.path:
                return slide.path
        return None

    def _look(self) -> None:
        listed: dict[str, ListedSlide] = {}
        unlisted = 0
        for number, root in enumerate(self.roots):
            base = root.resolve()
            for path in _candidates(base):
                if path is None or len(listed) >= MAX_LISTED:
                    unlisted += 1
                    continue
                identifier = self._id(number, path.relative_to(base))
                try:
                    size = sum(part.stat().st_size for part in ([path] if path.is_file() else slide_files(path)))
                except OSError:
                    continue  # it was removed meanwhile
                listed[identifier] = ListedSlide(path.name, number, identifier, size, path)
        self._listed, self._looked = listed, time.monotonic()
        if unlisted != self.unlisted:
            self.unlisted = unlisted
            self._note(unlisted)

    def _id(self, root: int, below: Path) -> str:
        return self._pseudonym(f"slide {root} {below.as_posix()}")


def is_slide_id(text: str) -> bool:
    """Whether ``text`` has the form of a slide's id."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def resolve_slide(root: Path | None, name: str) -> Path:
    """The slide called ``name`` under ``root``.

    Raises:
        ComelError: no root is set, or ``name`` is absolute or leads outside, by ``..`` or by a symbolic link.
        NotFoundError: there is no such file, and no such folder of DICOM files.
    """
    if root is None:
        raise ComelError(
            "this service has no slide folder", "send a bag, or start the service with a slide folder (COMEL_SLIDE_ROOTS)"
        )
    parts = PurePosixPath(name)
    # A backslash is an ordinary character here, but before two dots it is meant as a separator.
    if parts.is_absolute() or ".." in re.split(r"[/\\]", name) or not is_name(name):
        raise ComelError("the slide's name is not a plain path below the slide folder", "name it relative to the slide folder")
    try:
        base = root.resolve(strict=True)
        path = (base / parts).resolve(strict=True)
    except (OSError, RuntimeError):
        raise NotFoundError(f"{name}: no such slide", _REMEDY) from None
    if not path.is_relative_to(base):
        raise ComelError(f"{name}: leads outside the slide folder", _REMEDY)
    if not _is_slide(path):
        raise NotFoundError(f"{name}: no such slide", _REMEDY)
    return path


def _candidates(base: Path) -> Iterator[Path | None]:
    """Files with a slide's suffix and folders of DICOM files, without hidden ones; None for each that is not listed."""
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(base, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(_is_dicom(Path(folder, name)) for name in _likely_dicom(names)):
            yield Path(folder) if _is_slide(Path(folder)) else None
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                # Opening a pipe or a device would block.
                yield path if is_name(name) and path.is_file() and not path.is_symlink() else None
    yield from (None for _ in unreadable)


def _likely_dicom(names: Sequence[str]) -> list[str]:
    """A name that ends in ``.dcm``; without one, the first few of no slide's suffix: a folder of DICOM holds little else."""
    named = [name for name in names if Path(name).suffix.lower() == DICOM]
    return named[:1] or sorted(name for name in names if Path(name).suffix.lower() not in SUFFIXES)[:FEW]


def _is_dicom(path: Path) -> bool:
    """By the suffix or, whatever the name, by the content."""
    try:
        return path.suffix.lower() == DICOM or is_dicom(path)
    except OSError:  # not readable
        return False


def _is_slide(path: Path) -> bool:
    """Whether there is a file, or a folder of DICOM files of its own.

    OpenSlide looks at every file beside a DICOM file, so none of them may be a link: it might lead outside.
    """
    folder = path.parent if path.is_file() and _is_dicom(path) else path
    if not folder.is_dir():
        return path.is_file()
    try:
        linked = any(part.is_symlink() and part.is_file() for part in folder.iterdir())
        return is_name(folder.name) and bool(slide_files(folder)) and not linked
    except OSError:  # not readable
        return False
