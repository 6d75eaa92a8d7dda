"""Request bodies of bounded size: a bag as multipart goes to disk as it arrives, a JSON body stays small."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from comel.errors import ComelError
from service.errors import TooLargeError, WrongKindError, needing_room
from service.intake.hdf5_check import HDF5_SIGNATURE
from service.paths import PARTIAL

__all__ = ["ReceivedBag", "limited", "received_bag", "safe_name", "small_body"]

MAX_SMALL_BODY = 64 << 10
_MULTIPART_FRAME = 16 << 10


@dataclass(frozen=True)
class ReceivedBag:
    """A form's content: the file on disk, and its text fields, those that are not empty."""

    path: Path
    fields: dict[str, str]


def limited(request: Request, max_bytes: int) -> Request:
    """The same request, whose body raises :class:`TooLargeError` as soon as it is longer than it may be."""
    too_large = TooLargeError(f"the body is larger than {max_bytes} bytes", "send a smaller one, or ask for a larger limit")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise too_large
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)


async def small_body(request: Request) -> bytes:
    """The whole body, at most 64 KiB."""
    return await limited(request, MAX_SMALL_BODY).body()


@asynccontextmanager
async def received_bag(request: Request, folder: Path, max_bytes: int, *, known: Collection[str]) -> AsyncIterator[ReceivedBag]:
    """The content of a multipart body, its HDF5 file under ``folder``; the file is gone afterwards.

    Raises:
        TooLargeError: the body is longer than ``max_bytes``.
        NoRoomError: the disk is full.
        WrongKindError: the file is not HDF5.
        ComelError: there is no file in a field called ``bag``, or a text field that is not among ``known`` or comes twice: a
            misspelt ``model`` would be answered by another one.
    """
    sent = limited(request, max_bytes + _MULTIPART_FRAME)
    with needing_room():
        async with sent.form(max_files=1, max_fields=8, max_part_size=4096) as form:
            upload = form.get("bag")
            if not isinstance(upload, UploadFile):
                raise ComelError("the form has no file in a field 'bag'", "send the bag as a file in the field 'bag'")
            _check_fields([name for name, _ in form.multi_items()], known)
            if await upload.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
                raise WrongKindError("the file in the field 'bag' is not HDF5", "send the .h5 file that comel extract wrote")
            await upload.seek(0)
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=PARTIAL) as private:
                path = Path(private) / safe_name(upload.filename, "h5")
                await run_in_threadpool(_save, upload.file, path)
                yield ReceivedBag(path, {name: value for name, value in form.items() if isinstance(value, str) and value})


def _check_fields(names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in ("bag", *known):
            said = f"the form has a field '{name[:80]}', which is not known"
            raise ComelError(said, f"the fields are bag, {', '.join(known)}")
        if names.count(name) > 1:
            raise ComelError(f"the form has the field '{name}' {names.count(name)} times", "send it once")


def _save(source: BinaryIO, path: Path) -> None:
    with open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def safe_name(filename: str | None, suffix: str | None = None) -> str:
    """The client's file name, which may become the slide's name, without anything that a path could be made of.

    Args:
        filename: as the client gave it.
        suffix: the ending that the name gets in place of its own, None to keep its own.
    """
    name = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", filename or "")[-1]).strip(".")
    stem, _, own = name.rpartition(".")
    if not stem:
        stem, own = own, ""
    # File systems count bytes.
    stem, ending = (text.encode()[:most].decode(errors="ignore") for text, most in ((stem, 180), (suffix or own, 16)))
    return f"{stem or 'file'}.{ending or 'bin'}"
