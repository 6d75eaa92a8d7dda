"""The work on one slide, done in a process that may be killed: a bag and an overlay, or an error with the reason."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from comel.bags.bag import Bag, read_bag, read_bag_header, write_bag
from comel.base.files import atomic_path, sha256_of_json
from comel.base.units import Precision
from comel.cohort.manifest import ManifestRow
from comel.errors import BagError, ComelError, ConfigError, SlideError
from pipelines.batch.claims import EXPIRY_SECONDS
from pipelines.batch.runs import check_folder
from pipelines.batch.slide_records import bag_path, file_stamp, overlay_path, run_key
from pipelines.extraction.settings import ExtractSettings, content_settings
from pipelines.patch_encoders import PatchEncoder, load_encoder, scale_note
from pipelines.tissue import own_tissue

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SLIDE_GONE",
    "STALL_SECONDS",
    "Described",
    "EncoderLoader",
    "OutputFull",
    "SlideWork",
    "Tell",
    "Worked",
    "describe",
    "is_full",
    "load",
    "output_full",
    "work_on",
]

Tell = Callable[[tuple[str, int, int]], None]
"""Called with (stage, tiles done, total tiles)."""

EncoderLoader = Callable[[str, str, Precision], PatchEncoder]

STALL_SECONDS = 900.0

SLIDE_GONE = "its slide no longer exists"
"""The note for a complete bag whose slide was archived or deleted."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_encoders: dict[tuple[EncoderLoader, str, str, Precision], PatchEncoder] = {}


class OutputFull(ComelError):
    """The output folder is full: not a slide's fault, and every further slide would fail too."""


@dataclass(frozen=True)
class SlideWork:
    """The common settings of a run's slides; small, and sent to the workers.

    Attributes:
        out: the folder of the bags, the same on every host.
        settings: see :class:`pipelines.extraction.settings.ExtractSettings`.
        device: see :func:`pipelines.patch_encoders.load_encoder`.
        run: the run's own name.
        key: see :func:`describe`.
        force: redo complete slides too.
        time_limit: most seconds that a slide may take, without loading the encoder; None for no limit.
        stall_limit: most seconds without progress.
        worker_memory: most GiB that the process of a worker may use, None for no limit.
        expiry: seconds after which a claim without a heartbeat is stale.
        encoder_loader: loads the encoder; called with (name, device, precision).
    """

    out: Path
    settings: ExtractSettings
    device: str
    run: str
    key: str = ""
    force: bool = False
    time_limit: float | None = None
    stall_limit: float = STALL_SECONDS
    worker_memory: float | None = None
    expiry: float = EXPIRY_SECONDS
    encoder_loader: EncoderLoader = load_encoder

    @property
    def worker_bytes(self) -> int | None:
        """``worker_memory`` in bytes."""
        return None if self.worker_memory is None else int(self.worker_memory * (1 << 30))

    @property
    def state_dir(self) -> Path:
        """The folder of claims, outcomes and workers."""
        return self.out / ".extract"


@dataclass(frozen=True)
class Described:
    """A worker's description of the encoder that it loaded.

    Attributes:
        key: everything that determines a bag's content except the slide, see :func:`pipelines.batch.slide_records.run_key`.
        encoder: the encoder's entry in ``extract.json``.
        devices: the CUDA devices that it may use: all, or the one that was named.
    """

    key: str
    encoder: dict[str, object]
    devices: int


@dataclass(frozen=True)
class Worked:
    """The result of a slide.

    Attributes:
        state: extracted now, or already complete.
        tiles: rows of its bag.
        notes: remarks for the user.
        assumed_mpp: whether its micrometres per pixel come from ``assume_mpp``.
    """

    state: Literal["done", "skipped"]
    tiles: int
    notes: tuple[str, ...] = ()
    assumed_mpp: bool = False


def describe(work: SlideWork) -> Described:
    """Load the encoder and describe it.

    Raises:
        ConfigError: the encoder or the device cannot be used, or the tissue folder cannot be read here.
    """
    encoder = _encoder(work)
    nothing = content_settings(work.settings, encoder, slide=Path(os.devnull), mpp=None, annotation=None)
    said: dict[str, object] = {
        "name": encoder.name,
        "weights_hash": encoder.weights_hash,
        "dimension": encoder.dimension,
        "mpp": list(encoder.mpp),
        "note": scale_note(encoder, work.settings.target_mpp, *work.settings.also_mpp),
    }
    content = sha256_of_json([nothing, _stamps_of(work.settings.tissue_folder)])
    key = run_key(content, work.settings.assume_mpp)
    return Described(key, said, _cuda_devices(encoder.device))


def load(work: SlideWork, tell: Tell) -> None:
    """Load the encoder and everything else needed, unless this process has: it does not count as a slide's time.

    Raises:
        ConfigError: the encoder or the device cannot be used.
    """
    tell(("encoder", 0, 0))
    _encoder(work)
    importlib.import_module("pipelines.extraction.slide")


def work_on(work: SlideWork, row: ManifestRow, tell: Tell) -> Worked:
    """Extract a slide to its bag and its overlay, unless they are complete and the result would be the same.

    The overlay is written before the bag, so a complete bag has its overlay.

    Raises:
        SlideError: the slide cannot be used.
        OutputFull: the bag or the overlay cannot be stored.
        TakenOver: another run with other settings has taken the folder over meanwhile.
    """
    tell(("encoder", 0, 0))
    encoder = _encoder(work)
    tell(("open", 0, 0))
    bag_file, overlay_file = bag_path(work.out, row.slide_id), overlay_path(work.out, row.slide_id)
    if not work.force and overlay_file.is_file() and (bag := _complete_bag(row, bag_file, work.settings, encoder)) is not None:
        notes = bag.notes if row.path.exists() else (*bag.notes, SLIDE_GONE)
        return Worked("skipped", len(bag), notes, _assumed(bag.settings))
    from pipelines.extraction.slide import extract_slide

    extracted = extract_slide(
        row.path,
        slide_id=row.slide_id,
        encoder=encoder,
        settings=work.settings,
        mpp=row.mpp,
        annotation=row.annotation,
        progress=lambda stage, done, total: tell((stage, done, total)),
    )
    tiles = len(extracted.bag)
    tell(("write", tiles, tiles))
    check_folder(work.state_dir, work.key)
    try:
        _write_overlay(overlay_file, extracted.overlay)
        write_bag(bag_file, extracted.bag)
    except OSError as error:
        if is_full(error):
            raise output_full(work.out, error) from error
        reason = error.strerror or type(error).__name__
        raise SlideError(
            f"{work.out}: cannot be written ({reason})", "check its permissions and its disk", stage="write"
        ) from error
    return Worked("done", tiles, tuple(extracted.notes), _assumed(extracted.bag.settings))


def _complete_bag(row: ManifestRow, path: Path, settings: ExtractSettings, encoder: PatchEncoder) -> Bag | None:
    """The existing bag, read in full, if extracting the slide again would give the same; otherwise None.

    For a slide that no longer exists, its name stands for its content.
    """
    try:
        if not path.is_file():
            return None
        header = read_bag_header(path)
        made, gone = json.loads(header.get("settings") or "{}"), not row.path.exists()
        # The same slide and manifest use the assumption again, or again do not.
        assumed_mpp = settings.assume_mpp if _assumed(made) else None
        wanted = content_settings(
            settings,
            encoder,
            slide=Path(os.devnull) if gone else row.path,
            mpp=row.mpp,
            annotation=row.annotation,
            tissue=own_tissue(settings.tissue_folder, row.slide_id, settings.tissue),
            assumed_mpp=assumed_mpp,
        )
        if gone and made["source"]["name"] == row.path.name:
            wanted["source"] = made["source"]
        if header.get("settings_hash") != sha256_of_json(wanted):
            return None
        return read_bag(path, verify=True)
    except (BagError, SlideError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _assumed(settings: Mapping[str, Any]) -> bool:
    return settings.get("assumed_mpp") is not None


def _stamps_of(folder: Path | None) -> list[str]:
    """Names, sizes and times of the user's own tissue files: if one changes, every slide is checked again by content."""
    try:
        files = [] if folder is None else sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ConfigError(
            f"{folder}: the tissue folder cannot be read ({error.strerror or error})",
            "put it where every worker sees it at the same path, and check its permissions",
        ) from None
    return [f"{path.name} {file_stamp(path)}" for path in files]


def _write_overlay(path: Path, overlay: Image) -> None:
    with atomic_path(path) as temporary:
        overlay.save(temporary, format="PNG")


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota is full."""
    return error.errno in _FULL


def output_full(out: Path, error: OSError) -> OutputFull:
    """That error as one that ends the run."""
    return OutputFull(f"{out}: {error.strerror}", "free space there, then give the same command again: it continues")


def _encoder(work: SlideWork) -> PatchEncoder:
    said = (work.settings.encoder, work.device, work.settings.precision)
    key = (work.encoder_loader, *said)
    if key not in _encoders:
        _be_the_first_to_go()
        _encoders.clear()
        _encoders[key] = work.encoder_loader(*said)
    return _encoders[key]


def _be_the_first_to_go() -> None:
    """Let the OOM killer choose this process (one slide lost), not its supervisor."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _cuda_devices(device: str) -> int:
    if device.partition(":")[0] != "cuda":
        return 0
    import torch

    return torch.cuda.device_count() if torch.device(device).index is None else 1
