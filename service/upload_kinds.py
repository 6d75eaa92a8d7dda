"""What a whole uploaded file is, by its content: the name that a client gives it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from comel.bag import read_bag_header
from comel.errors import ComelError
from comel.killable import CallFailed, CallTimedOut, KillableWorker, WorkerCrashed
from service.bodies import HDF5_SIGNATURE
from service.hdf5_check import check_hdf5
from service.problems import WrongKindError
from service.settings import ServiceSettings
from service.tiff_check import check_tiff
from service.turns import Turns

__all__ = ["FileInspector", "instances_of", "kind_of"]

_MEMORY_BYTES = 4 << 30
_UPLOAD_SECONDS, _BAG_SECONDS = 60.0, 20.0
_ABSURD_PIXELS = 1 << 42


class FileInspector:
    """Looks at files in child processes of its own, which a hostile one may crash, hang or fill up.

    One process is for whole uploads, which may take long, one for bags whose senders wait. Each is started at its first file
    and takes one at a time.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._uploads, self._bags = _Looking(_UPLOAD_SECONDS), _Looking(_BAG_SECONDS)

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
            except (CallFailed, CallTimedOut, WorkerCrashed):
                raise ComelError(f"{path}: cannot be read as a slide or a bag", "check the file") from None

    def close(self) -> None:
        self._turns.close()


def kind_of(path: Path, max_bytes: int, max_instances: int) -> str:
    """See :meth:`FileInspector.kind`; runs in the child."""
    with open(path, "rb") as file:
        signature = file.read(len(HDF5_SIGNATURE))
    if signature == HDF5_SIGNATURE:
        check_hdf5(path, max_bytes=max_bytes, max_instances=max_instances)
        return "bag"
    from pipelines.slide import open_slide

    try:
        # The resolution may come with the request, so any will do here.
        with open_slide(path, mpp=1.0) as slide:
            width, height = slide.dimensions
            if width * height > _ABSURD_PIXELS:
                raise ComelError(f"{path}: states {width} x {height} pixels", "send a slide as its scanner wrote it")
            slide.thumbnail(64)
    except ComelError as error:
        raise WrongKindError(f"{path}: neither a bag nor a slide that can be read ({_reason(error, path)})") from None
    return "slide"


def instances_of(path: Path, max_bytes: int, max_instances: int) -> int:
    """See :meth:`FileInspector.instances`; runs in the child."""
    check_hdf5(path, max_bytes=max_bytes, max_instances=max_instances)
    try:
        return int(read_bag_header(path)["instances"])
    except ComelError:
        return 0


def _reason(error: ComelError, path: Path) -> str:
    return error.what.removeprefix(f"{path}: ")
