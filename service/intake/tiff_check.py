"""A check of an uploaded TIFF before a slide library opens it: only the sizes that its directories state.

Slide libraries allocate a tile as large as the file says it is. Here only whole numbers of the directories are read, a few
hundred bytes each, so this needs no process of its own and answers at once.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from service.errors import WrongKindError

__all__ = ["check_tiff"]

MAX_DIRECTORIES = 500
MAX_ENTRIES = 1_000
MAX_PIXELS = 1 << 42
MAX_TILE_SIDE = 1 << 13
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_SIDES = (_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH)
_CLASSIC_BYTES = 1 << 32
"""The limit of a classic TIFF's offsets; a larger file is NDPI, with its own offsets. The child process checks it."""
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def check_tiff(path: Path) -> None:
    """Refuse a TIFF whose directories state sizes that no slide has. Other files pass: they are checked elsewhere.

    Raises:
        WrongKindError: a size is impossible, or its directories do not end.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8 or struct.unpack(f"{order}H", head[2:4])[0] not in (42, 43):
            return
        version = struct.unpack(f"{order}H", head[2:4])[0]
        big = version == 43
        if not big and path.stat().st_size >= _CLASSIC_BYTES:
            return
        try:
            place = struct.unpack(f"{order}Q", head[8:16])[0] if big else struct.unpack(f"{order}I", head[4:8])[0]
            seen: set[int] = set()
            while place:
                if place in seen or len(seen) >= MAX_DIRECTORIES:
                    raise _refusal(path, "its directories have no end")
                seen.add(place)
                sides, place = _directory(file, place, order, big)
                _check(path, sides)
        except (struct.error, OverflowError):
            raise _refusal(path, "a directory lies outside the file") from None


def _directory(file: BinaryIO, place: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """The sizes that the directory at ``place`` states, and where the next one lies."""
    counts, entries, links = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    file.seek(place)
    (count,) = struct.unpack(order + counts, file.read(struct.calcsize(order + counts)))
    if count > MAX_ENTRIES:
        raise struct.error
    sides = {}
    for _ in range(count):
        tag, kind, _, value = struct.unpack(order + entries, file.read(struct.calcsize(order + entries)))
        if tag in _SIDES and kind in _NUMBERS:
            (sides[tag],) = struct.unpack_from(order + _NUMBERS[kind], value)
    (following,) = struct.unpack(order + links, file.read(struct.calcsize(order + links)))
    return sides, following


def _check(path: Path, sides: dict[int, int]) -> None:
    if any(value == 0 for value in sides.values()):
        raise _refusal(path, "a picture or tile without width or height")
    if sides.get(_WIDTH, 1) * sides.get(_LENGTH, 1) > MAX_PIXELS:
        raise _refusal(path, f"states {sides[_WIDTH]} x {sides[_LENGTH]} pixels")
    if max(sides.get(_TILE_WIDTH, 1), sides.get(_TILE_LENGTH, 1)) > MAX_TILE_SIDE:
        raise _refusal(path, f"tiles of more than {MAX_TILE_SIDE} pixels per side")


def _refusal(path: Path, what: str) -> WrongKindError:
    return WrongKindError(f"{path}: not a slide: {what}", "send a slide as its scanner wrote it")
