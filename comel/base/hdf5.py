"""Untrusted HDF5 files: opened, listed and read, with every failure raised as :class:`~comel.errors.BagError`.

Links are detected and never followed: h5py's ``in`` and ``get`` would open the file that an external link names, and block if
that is a pipe.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from comel.base.text import first_line
from comel.errors import BagError

__all__ = ["check_attributes", "check_file", "group_names", "holds", "open_hdf5", "plain", "read_attributes", "read_dataset"]

_MAX_NAMES = 100_000
_MAX_CHUNK_BYTES = 256 << 20
_MAX_ATTRIBUTES, _MAX_ATTRIBUTE_BYTES, _MAX_STRINGS = 200, 1 << 20, 1000
_AGAIN = "extract the slide again"
_OWN_DATA = "give a file that holds its own data"
_DAMAGE = (
    OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError, OverflowError, ArithmeticError, RecursionError,
)  # fmt: skip


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, with every failure of the library raised as :class:`BagError`."""
    import h5py

    check_file(path)
    try:
        # On a file system without locks no other program can hold one.
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise _unopened(path, error) from None
    try:
        yield file
    except _DAMAGE as error:
        raise BagError(f"{path}: cannot be read ({first_line(error)})", _AGAIN) from error
    finally:
        file.close()


def check_file(path: Path) -> None:
    """Refuse anything but a file with content, such as a pipe, which would block a reader.

    Raises:
        BagError: it is not a regular file, cannot be read, or is empty.
    """
    try:
        about = path.stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise BagError(f"{path}: no such file", "check the path, or extract the slide first") from None
        raise BagError(f"{path}: cannot be read ({error.strerror})", "check the path and its permissions") from None
    if not stat.S_ISREG(about.st_mode):
        raise BagError(f"{path}: not a file but a folder, a pipe or a device", "give a feature file")
    if about.st_size == 0:
        raise BagError(f"{path}: the file is empty", _AGAIN)


def holds(file: Any, name: str, path: Path) -> bool:
    """Whether a file itself holds an object under a name, such as ``scales/2/features``.

    Raises:
        BagError: the name or a part of it is a link.
    """
    import h5py

    group, parts = file, name.strip("/").split("/")
    for depth, part in enumerate(parts, start=1):
        if not isinstance(group, h5py.Group) or not group.id.links.exists(part.encode()):
            return False
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise BagError(f"{path}: '{'/'.join(parts[:depth])}' is a link", _OWN_DATA)
        group = group[part] if depth < len(parts) else None
    return True


def read_dataset(file: Any, name: str, path: Path, max_bytes: int) -> np.ndarray:
    """Read one dataset after checking its link, its storage and its size.

    The result is in the machine's byte order and at most double precision.

    Soft, external and virtual links, and filters other than gzip, lzf and shuffle, are refused: a bag never needs them, but
    a hostile file may use them.
    """
    import h5py

    if not holds(file, name, path):
        raise BagError(f"{path}: no dataset '{name}'", _AGAIN)
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise BagError(f"{path}: '{name}' does not hold its own data", _OWN_DATA)
    if dataset.dtype.kind not in "fiub":
        raise BagError(f"{path}: '{name}' holds {dataset.dtype}, not numbers", _AGAIN)
    plain_filters = {"1", "2", "3", "32000"}
    if not set(getattr(dataset, "_filters", {})) <= plain_filters | {"gzip", "lzf", "shuffle", "fletcher32"}:
        raise BagError(f"{path}: '{name}' uses a filter that is not accepted", "store it plain or with gzip")
    declared = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    if declared > max_bytes:
        raise BagError(f"{path}: '{name}' declares {declared / 2**30:.1f} GiB", f"at most {max_bytes / 2**30:.1f} GiB is read")
    # The library decompresses a whole chunk into memory, however little of it the shape uses.
    if (chunk := math.prod(dataset.chunks or ()) * dataset.dtype.itemsize) > max(_MAX_CHUNK_BYTES, declared):
        raise BagError(f"{path}: '{name}' has chunks of {chunk} bytes", "store it plain, or in smaller chunks")
    stored = dataset.id.get_storage_size()
    if declared > max(1 << 20, stored * 1000):
        raise BagError(f"{path}: '{name}' declares {declared} bytes but stores {stored}", _AGAIN)
    if declared and (unwritten := _unwritten(dataset)):
        raise BagError(
            f"{path}: '{name}' was never written to its end: {unwritten} missing",
            "the program that wrote it was stopped before; extract the slide again",
        )
    with np.errstate(over="ignore"):  # what is too large for a double becomes infinite, and is found
        return _native(np.asarray(dataset[()]))


def _unwritten(dataset: Any) -> str:
    """Which of a dataset's parts the file reserves and does not hold, "" for none; the library would read them as zeros."""
    if dataset.chunks is None:
        return "all of it is" if not dataset.id.get_storage_size() else ""
    whole = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    there = dataset.id.get_num_chunks()
    return f"{whole - there} of its {whole} chunks are" if there < whole else ""


def group_names(file: Any, name: str, path: Path) -> list[str]:
    """The names in a group that the file itself holds, ``""`` for the root; empty if there is no such group.

    Raises:
        BagError: it is a link or not a group, or holds more names than any bag.
    """
    import h5py

    if name and not holds(file, name, path):
        return []
    group = file[name] if name else file
    if not isinstance(group, h5py.Group):
        raise BagError(f"{path}: '{name}' is not a group", _AGAIN)
    if (count := group.id.get_num_objs()) > _MAX_NAMES:
        raise BagError(f"{path}: '{name}' holds {count} objects", _OWN_DATA)
    return list(group)


def read_attributes(thing: Any, path: Path) -> dict[str, Any]:
    """The attributes of a file, a group or a dataset as plain Python values, limited to what a bag may have.

    Raises:
        BagError: there are too many, or one is too large.
    """
    check_attributes(thing, path)
    return {key: plain(value) for key, value in thing.attrs.items()}


def check_attributes(thing: Any, path: Path) -> None:
    """Check the number and the sizes of attributes before reading any.

    Raises:
        BagError: there are too many, or one is too large.
    """
    from h5py import h5a, h5t

    count = h5a.get_num_attrs(thing.id)
    if count > _MAX_ATTRIBUTES:
        raise BagError(f"{path}: {count} attributes", _OWN_DATA)
    for index in range(count):
        attribute = h5a.open(thing.id, index=index)
        values = math.prod(attribute.shape)
        kind = attribute.get_type()
        # Variable-length strings are stored as references, and many of them may point to one long string.
        free = not isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID)) and kind.detect_class(h5t.VLEN)
        free = free or (isinstance(kind, h5t.TypeStringID) and kind.is_variable_str())
        if values * kind.get_size() > _MAX_ATTRIBUTE_BYTES or (free and values > _MAX_STRINGS):
            raise BagError(f"{path}: an attribute is too large", _OWN_DATA)


def plain(value: Any) -> Any:
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _native(array: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's byte order, and long doubles as doubles: torch supports no others."""
    kind = array.dtype.newbyteorder("=")
    return array.astype(np.float64 if kind.kind == "f" and kind.itemsize > 8 else kind, copy=False)


def _unopened(path: Path, error: OSError) -> BagError:
    """Why a file cannot be opened: locked by another program, not permitted to this user, or truncated."""
    said = first_line(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return BagError(f"{path}: cannot be read ({os.strerror(error.errno)})", "check its permissions and those of its folder")
    if error.errno in (errno.EAGAIN, errno.EDEADLK) or "unable to lock file" in said:
        remedy = "wait until it has closed the file, or set HDF5_USE_FILE_LOCKING=FALSE if none has it open"
        return BagError(f"{path}: in use by another program, which holds a lock on it", remedy)
    if "open for write" in said or "SWMR" in said:
        remedy = f"wait until it has closed the file; if it was killed, run h5clear -s {path.name}"
        return BagError(f"{path}: marked as open for writing by another program", remedy)
    return BagError(f"{path}: truncated or not HDF5 ({said})", "extract the slide again")
