"""What a file is, by its content; runs in a child process, so it loads no more than that takes."""

from __future__ import annotations

from pathlib import Path

from comel.bags.bag import read_bag_header
from comel.errors import ComelError
from service.errors import WrongKindError
from service.intake.hdf5_check import HDF5_SIGNATURE, check_hdf5

__all__ = ["instances_of", "kind_of"]

_ABSURD_PIXELS = 1 << 42


def kind_of(path: Path, max_bytes: int, max_instances: int) -> str:
    """See :meth:`service.intake.upload_kinds.FileInspector.kind`."""
    with open(path, "rb") as file:
        signature = file.read(len(HDF5_SIGNATURE))
    if signature == HDF5_SIGNATURE:
        check_hdf5(path, max_bytes=max_bytes, max_instances=max_instances)
        return "bag"
    from pipelines.slides.slide import open_slide

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
    """See :meth:`service.intake.upload_kinds.FileInspector.instances`."""
    check_hdf5(path, max_bytes=max_bytes, max_instances=max_instances)
    try:
        return int(read_bag_header(path)["instances"])
    except ComelError:
        return 0


def _reason(error: ComelError, path: Path) -> str:
    return error.what.removeprefix(f"{path}: ")
