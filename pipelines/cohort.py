"""A cohort of slides to a folder of bags; it may be stopped at any moment and started again.

A bag that exists is complete (temporary name, verified, renamed), and is kept where its settings, its slide's fingerprint
and its checksum are what they would be again. The overlay is written before the bag, so a complete bag has its overlay.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from comel.bag import Bag, read_bag, read_bag_header, write_bag
from comel.errors import BagError, ComelError, SlideError
from comel.files import atomic_path, sha256_of_json, write_json, write_text
from comel.manifest import ManifestRow, read_manifest
from pipelines.encoders import PatchEncoder, load_encoder, scale_note
from pipelines.extract import extract_slide
from pipelines.settings import ExtractSettings, content_settings
from pipelines.tissue import own_tissue

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CohortReport", "Failure", "SlideOutcome", "extract_cohort", "read_failures"]

_logger = logging.getLogger(__name__)

_STALE_SECONDS = 3600.0
_DEFECT_REMEDY = "run again with the log on; if it stays, leave the slide out of the manifest"


@dataclass(frozen=True)
class Failure:
    """A slide that failed: a row of ``failures.csv``."""

    slide: str
    stage: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide of the manifest.

    Attributes:
        slide_id: the slide.
        state: done now, skipped because it was complete, or failed.
        tiles: rows of its bag.
        notes: what a user should know about it.
    """

    slide_id: str
    state: Literal["done", "skipped", "failed"]
    tiles: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CohortReport:
    """What became of a cohort.

    Attributes:
        done, skipped, failed: numbers of slides.
        tiles: tiles encoded in this run.
        seconds: time this run took.
        failures: the slides of this manifest that failed.
    """

    done: int
    skipped: int
    failed: int
    tiles: int
    seconds: float
    failures: tuple[Failure, ...] = ()


def extract_cohort(
    manifest: Path,
    out: Path,
    settings: ExtractSettings,
    *,
    root: Path | None = None,
    device: str = "auto",
    force: bool = False,
    encoder: PatchEncoder | None = None,
    progress: Callable[[SlideOutcome], None] | None = None,
) -> CohortReport:
    """Extract every slide of a manifest to ``out``.

    Writes ``<slide_id>.h5``, ``overlays/<slide_id>.png``, ``failures.csv`` (slide, stage, reason, remedy) and
    ``extract.json``. A slide that fails stands in ``failures.csv`` and the next one follows; once it succeeds it
    leaves that file.

    Args:
        manifest: the cohort, see :func:`comel.manifest.read_manifest`.
        out: the folder of the bags.
        settings: see :class:`ExtractSettings`.
        root: folder that relative paths of the manifest start from.
        device: see :func:`pipelines.encoders.load_encoder`.
        force: do complete slides again too.
        encoder: an encoder that is loaded already, in place of ``settings.encoder``.
        progress: told the outcome of each slide, in the manifest's order.

    Raises:
        ManifestError: the manifest cannot be used.
        ConfigError: the encoder or the device cannot be used.
    """
    started = time.monotonic()
    rows = read_manifest(manifest, root=root).rows
    encoder = encoder or load_encoder(settings.encoder, device)
    if (note := scale_note(encoder, settings.target_mpp)) is not None:
        _logger.warning("%s", note)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _remove_stale(out)
    failures = {failure.slide: failure for failure in read_failures(out / "failures.csv")}
    outcomes: list[SlideOutcome] = []
    for row in rows:
        outcome: SlideOutcome | Failure = _one_slide(row, out, settings, encoder, force)
        if isinstance(outcome, Failure):
            failures[row.slide_id] = outcome
            outcome = SlideOutcome(row.slide_id, "failed")
        else:
            failures.pop(row.slide_id, None)
        _write_failures(out / "failures.csv", list(failures.values()))
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome)
    count = {state: sum(outcome.state == state for outcome in outcomes) for state in ("done", "skipped", "failed")}
    report = CohortReport(
        **count,
        tiles=sum(outcome.tiles for outcome in outcomes if outcome.state == "done"),
        seconds=time.monotonic() - started,
        failures=tuple(failures[outcome.slide_id] for outcome in outcomes if outcome.state == "failed"),
    )
    _write_summary(out / "extract.json", settings, encoder, outcomes, report)
    return report


def read_failures(path: Path) -> list[Failure]:
    """The rows of a ``failures.csv``; none where there is no such file or it is none of ours."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Failure(**row) for row in rows if set(row) == set(Failure.__dataclass_fields__)]


def _one_slide(
    row: ManifestRow, out: Path, settings: ExtractSettings, encoder: PatchEncoder, force: bool
) -> SlideOutcome | Failure:
    stage = "open"

    def report(name: str, done: int, total: int) -> None:
        nonlocal stage
        stage = name

    bag_path, overlay_path = out / f"{row.slide_id}.h5", out / "overlays" / f"{row.slide_id}.png"
    try:
        if not force and overlay_path.is_file() and (bag := _complete_bag(row, bag_path, settings, encoder)) is not None:
            return SlideOutcome(row.slide_id, "skipped", len(bag))
        extracted = extract_slide(
            row.path,
            slide_id=row.slide_id,
            encoder=encoder,
            settings=settings,
            mpp=row.mpp,
            annotation=row.annotation,
            progress=report,
        )
        stage = "write"
        _write_overlay(overlay_path, extracted.overlay)
        write_bag(bag_path, extracted.bag)
        return SlideOutcome(row.slide_id, "done", len(extracted.bag), tuple(extracted.notes))
    except ComelError as error:
        return Failure(row.slide_id, error.stage if isinstance(error, SlideError) else stage, error.what, error.remedy)
    except Exception as error:  # one slide must not stop a cohort, whatever a damaged file provokes
        _logger.warning("slide %s failed in stage %s", row.slide_id, stage, exc_info=error)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        remedy = "free disk space and run again" if stage == "write" and isinstance(error, OSError) else _DEFECT_REMEDY
        return Failure(row.slide_id, stage, reason, remedy)


def _complete_bag(row: ManifestRow, bag_path: Path, settings: ExtractSettings, encoder: PatchEncoder) -> Bag | None:
    """The bag that is there, where extracting the slide again would give the same; else None."""
    if not bag_path.is_file() or not row.path.is_file():
        return None
    try:
        tissue = own_tissue(settings.tissue_folder, row.slide_id, settings.tissue)
        wanted = content_settings(settings, encoder, slide=row.path, mpp=row.mpp, annotation=row.annotation, tissue=tissue)
        if read_bag_header(bag_path).get("settings_hash") != sha256_of_json(wanted):
            return None
        return read_bag(bag_path, verify=True)
    except (BagError, SlideError, OSError):
        return None


def _write_overlay(path: Path, overlay: Image) -> None:
    with atomic_path(path) as temporary:
        overlay.save(temporary, format="PNG")


def _write_failures(path: Path, failures: list[Failure]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Failure.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(failure) for failure in failures)
    text = stream.getvalue()
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    try:
        write_text(path, text)
    except OSError as error:
        # On a full disk the batch still goes on, and its report still names the failures.
        _logger.warning("%s cannot be written: %s", path, error)


def _write_summary(
    path: Path, settings: ExtractSettings, encoder: PatchEncoder, outcomes: list[SlideOutcome], report: CohortReport
) -> None:
    summary: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "encoder": {
            "name": encoder.name,
            "weights_hash": encoder.weights_hash,
            "dimension": encoder.dimension,
            "mpp": list(encoder.mpp),
            "note": scale_note(encoder, settings.target_mpp),
        },
        "counts": {"done": report.done, "skipped": report.skipped, "failed": report.failed, "tiles": report.tiles},
        "seconds": round(report.seconds, 3),
        "slides": {
            entry.slide_id: {"state": entry.state, "tiles": entry.tiles, "notes": list(entry.notes)} for entry in outcomes
        },
    }
    try:
        write_json(path, summary)
    except OSError as error:
        _logger.warning("%s cannot be written: %s", path, error)


def _remove_stale(out: Path) -> None:
    """Remove what a killed run left under temporary names, unless it is young enough to be another run's."""
    for folder in (out, out / "overlays"):
        for left in folder.glob(".partial-*"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink(missing_ok=True)
