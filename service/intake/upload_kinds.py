"""The kind of an uploaded file, by its content: the client's file name is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from comel.base.killable import Fault, WorkerFailure
from comel.base.workers import WorkerPool, failure
from comel.errors import ComelError
from service.errors import no_worker
from service.intake.file_kinds import instances_of, kind_of
from service.intake.tiff_check import check_tiff
from service.settings import ServiceSettings

__all__ = ["FileInspector"]

_MEMORY_BYTES = 4 << 30
_UPLOAD_SECONDS, _BAG_SECONDS = 60.0, 20.0


class FileInspector:
    """Inspects files in its own child processes, which a hostile file may crash, hang or fill up.

    One process is for complete uploads, which may take long, one for bags whose senders wait. Each is started at its first file
    and handles one at a time.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._uploads, self._bags = (WorkerPool(memory_bytes=_MEMORY_BYTES) for _ in range(2))

    def kind(self, path: Path) -> str:
        """``bag`` or ``slide``.

        Raises:
            WrongKindError: neither.
            BusyError: too many are before it.
            ComelError: a bag or slide, but damaged or hostile.
        """
        check_tiff(path)
        limits = self._settings.max_slide_bytes, self._settings.max_instances
        return str(_look(self._uploads, _UPLOAD_SECONDS, kind_of, path, *limits))

    def instances(self, path: Path) -> int:
        """The number of tiles of a bag sent with its request; 0 if it is not a bag, which reading it will report.

        Raises:
            BusyError: too many are before it.
            ComelError: it is damaged, hostile, or larger than the service accepts.
        """
        seconds = min(_BAG_SECONDS, self._settings.sync_timeout_seconds)
        limits = self._settings.max_upload_bytes, self._settings.max_instances
        return int(_look(self._bags, seconds, instances_of, path, *limits))

    def close(self) -> None:
        """End the processes."""
        self._uploads.close()
        self._bags.close()


def _look(pool: WorkerPool, seconds: float, function: Callable[..., Any], path: Path, *limits: int) -> Any:
    try:
        return pool.call(function, path, *limits, timeout=seconds, wait=2 * seconds)
    except WorkerFailure as error:
        late = f"{path}: checking it took longer than {seconds:g} s"
        said = no_worker("send it again later") | {
            Fault.LATE: ComelError(late, "send it again; if that does not help, check the file"),
            Fault.DEFECT: ComelError(f"{path}: cannot be read as a slide or a bag", "check the file"),
        }
        raise failure(error, str(path), said) from None
