"""What an uploaded file is, by its content: the name that a client gives it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from comel.base.killable import CallFailed, CallTimedOut, KillableWorker, WorkerCrashed
from comel.errors import ComelError
from service.intake.file_kinds import instances_of, kind_of
from service.intake.tiff_check import check_tiff
from service.settings import ServiceSettings
from service.turns import Turns

__all__ = ["FileInspector"]

_MEMORY_BYTES = 4 << 30
_UPLOAD_SECONDS, _BAG_SECONDS = 60.0, 20.0


class FileInspector:
    """Looks at files in child processes of its own, which a hostile one may crash, hang or fill up.

    One process is for whole uploads, which may take long, one for bags whose senders wait. Each is started at its first file
    and takes one at a time.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._uploads = _Looking(_UPLOAD_SECONDS)
        self._bags = _Looking(min(_BAG_SECONDS, settings.sync_timeout_seconds))

    def kind(self, path: Path) -> str:
        """``bag`` or ``slide``.

        Raises:
            WrongKindError: neither.
            BusyError: too many are before it.
            ComelError: one of them, but damaged or hostile.
        """
        check_tiff(path)
        return str(self._uploads(kind_of, path, self._settings.max_slide_bytes, self._settings.max_instances))

    def instances(self, path: Path) -> int:
        """How many tiles a bag that came with its request has; 0 where it is none, which reading it says better.

        Raises:
            BusyError: too many are before it.
            ComelError: it is damaged, hostile, or larger than the service takes.
        """
        return int(self._bags(instances_of, path, self._settings.max_upload_bytes, self._settings.max_instances))

    def close(self) -> None:
        """End the processes."""
        self._uploads.close()
        self._bags.close()


class _Looking:
    """One child process that is given ``seconds`` for a file."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._child = seconds, KillableWorker(memory_bytes=_MEMORY_BYTES)
        self._turns = Turns(self._child)

    def __call__(self, function: Callable[..., Any], path: Path, *limits: int) -> Any:
        with self._turns.turn(2 * self._seconds, remedy="send it again later"):
            try:
                return self._child.call(function, path, *limits, timeout=self._seconds)
            except CallTimedOut:
                said = f"{path}: looking at it took longer than {self._seconds:g} s"
                raise ComelError(said, "send it again; if that does not help, check the file") from None
            except (CallFailed, WorkerCrashed):
                raise ComelError(f"{path}: cannot be read as a slide or a bag", "check the file") from None

    def close(self) -> None:
        self._turns.close()
