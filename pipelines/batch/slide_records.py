"""The outcome of each slide, one small file per slide, and when it can be trusted without reading the bag again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from comel.base.files import write_json
from comel.cohort.manifest import ManifestRow
from pipelines.slides.slide_files import slide_files

__all__ = [
    "Ledger",
    "SlideRecord",
    "bag_path",
    "file_stamp",
    "files_stamp",
    "inputs_stamp",
    "overlay_path",
    "run_key",
    "slide_key",
]

_ASSUMING = " assuming "


@dataclass(frozen=True)
class SlideRecord:
    """The outcome of a slide.

    Attributes:
        slide_id: the slide.
        state: ``done`` or ``failed``.
        key: its run's key, without settings irrelevant to this slide, see :func:`slide_key`.
        inputs: name, size and time of the slide and its annotation, see :func:`inputs_stamp`.
        files: size and time of the bag and the overlay; empty if it failed.
        tiles: rows of the bag.
        notes: remarks for the user.
        stage: the stage that failed.
        reason: what was wrong.
        remedy: what to do about it.
        host: the host that worked on it.
        ended: when it ended, seconds since 1970 by that host's clock.
        seconds: the time it took.
    """

    slide_id: str
    state: Literal["done", "failed"]
    key: str
    inputs: str
    files: str = ""
    tiles: int = 0
    notes: tuple[str, ...] = ()
    stage: str = ""
    reason: str = ""
    remedy: str = ""
    host: str = ""
    ended: float = 0.0
    seconds: float = 0.0

    def has_key(self, key: str) -> bool:
        """Whether a run with this key would give this slide the same outcome."""
        return self.key in (key, slide_key(key, assumed=False))

    def still_holds(self, row: ManifestRow, key: str, out: Path) -> bool:
        """Whether the slide is done with these settings, and neither it nor its files have changed since."""
        return (
            self.state == "done"
            and self.has_key(key)
            and self.inputs == inputs_stamp(row)
            and self.files == files_stamp(out, self.slide_id)
        )


def run_key(content: str, assume_mpp: float | None) -> str:
    """The key that runs must share to use one folder.

    Args:
        content: hash of settings and encoder.
        assume_mpp: micrometres per pixel of slides that do not state it.
    """
    return f"{content}{_ASSUMING}{assume_mpp}"


def slide_key(key: str, *, assumed: bool) -> str:
    """A run's key for one slide: the assumed micrometres per pixel count only if they were used."""
    return key if assumed else key.partition(_ASSUMING)[0]


class Ledger:
    """The outcomes in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)

    def read(self, slide_id: str) -> SlideRecord | None:
        """The slide's outcome; None if it cannot be read; the slide is then worked on again."""
        return _read(self._folder / f"{slide_id}.json")

    def write(self, outcome: SlideRecord) -> None:
        """Record an outcome, replacing the last one.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self._folder / f"{outcome.slide_id}.json", asdict(outcome))

    def all(self) -> dict[str, SlideRecord]:
        """The outcomes of every slide ever worked on in this folder, in order of name."""
        found = [outcome for path in sorted(self._folder.glob("[!.]*.json")) if (outcome := _read(path)) is not None]
        return {outcome.slide_id: outcome for outcome in found}


def _read(path: Path) -> SlideRecord | None:
    try:
        said = json.loads(path.read_bytes())
        outcome = SlideRecord(**{**said, "notes": tuple(said["notes"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return outcome if outcome.slide_id == path.name.removesuffix(".json") else None


def bag_path(out: Path, slide_id: str) -> Path:
    """The path of a slide's bag."""
    return out / f"{slide_id}.h5"


def overlay_path(out: Path, slide_id: str) -> Path:
    """The path of the picture for checking it."""
    return out / "overlays" / f"{slide_id}.png"


def inputs_stamp(row: ManifestRow) -> str:
    """Names, sizes and times of the files that the manifest's row names, and its mpp: changes whenever one of them is
    replaced, by another or in the manifest.

    Nothing is read. A copy has another stamp; its fingerprint then shows whether the content differs.
    """
    files = [value for field in dataclasses.fields(row) if isinstance(value := getattr(row, field.name), Path)]
    with contextlib.suppress(OSError):
        files += slide_files(row.path)
    return " ".join([*(f"{path} {file_stamp(path)}" for path in files), f"mpp {row.mpp}"])


def files_stamp(out: Path, slide_id: str) -> str:
    """Sizes and times of a bag and its overlay."""
    return f"{file_stamp(bag_path(out, slide_id))} {file_stamp(overlay_path(out, slide_id))}"


def file_stamp(path: Path) -> str:
    """Size and time of a file, or that it is missing."""
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size}:{state.st_mtime_ns}"
