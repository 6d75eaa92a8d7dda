"""HDF5 files that are not trusted: opened, listed and read with every failure as one :class:`~comel.errors.BagError`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from comel.base.text import first_line
from comel.errors import BagError

__all__ = ["group_names", "open_hdf5", "plain", "read_dataset"]


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, with every failure of the library as one :class:`BagError`."""
    import h5py

    try:
        if not path.is_file():
            raise BagError(f"{path}: no such file", "check the path, or extract the slide first")
        if path.stat().st_size == 0:
            raise BagError(f"{path}: the file is empty", "extract the slide again")
        # On a file system without locks nobody can hold one.
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise _unopened(path, error) from None
    try:
        yield file
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BagError(f"{path}: cannot be read ({first_line(error)})", "extract the slide again") from error
    finally:
        file.close()


def read_dataset(file: Any, name: str, path: Path, max_bytes: int) -> np.ndarray:
    """Read one dataset after looking at its link, its storage and its size.

    Soft, external and virtual links, and filters other than gzip, lzf and shuffle, are refused: a bag never needs them, and
    a hostile file does.
    """
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise BagError(f"{path}: '{name}' is a link", "give a file that holds its own data")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise BagError(f"{path}: '{name}' does not hold its own data", "give a file that holds its own data")
    if dataset.dtype.kind not in "fiub":
        raise BagError(f"{path}: '{name}' holds {dataset.dtype}, not numbers", "extract the slide again")
    plain_filters = {"1", "2", "3", "32000"}
    if not set(getattr(dataset, "_filters", {})) <= plain_filters | {"gzip", "lzf", "shuffle", "fletcher32"}:
        raise BagError(f"{path}: '{name}' uses a filter that is not accepted", "store it plain or with gzip")
    declared = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if declared > max_bytes:
        raise BagError(f"{path}: '{name}' declares {declared / 2**30:.1f} GiB", f"at most {max_bytes / 2**30:.1f} GiB is read")
    stored = dataset.id.get_storage_size()
    if declared > max(1 << 20, stored * 1000):
        raise BagError(f"{path}: '{name}' declares {declared} bytes but stores {stored}", "extract the slide again")
    return _native(np.asarray(dataset[()]))


def group_names(file: Any, name: str, path: Path) -> list[str]:
    """The names in a group of the file's own; none where there is no such group.

    Raises:
        BagError: it is a link, or no group.
    """
    import h5py

    if name not in file:
        return []
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise BagError(f"{path}: '{name}' is a link", "give a file that holds its own data")
    if not isinstance(file[name], h5py.Group):
        raise BagError(f"{path}: '{name}' is no group", "extract the slide again")
    return list(file[name])


def plain(value: Any) -> Any:
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _native(array: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's order of bytes, and long doubles as doubles: torch knows no others."""
    kind = array.dtype.newbyteorder("=")
    return array.astype(np.float64 if kind.kind == "f" and kind.itemsize > 8 else kind, copy=False)


def _unopened(path: Path, error: OSError) -> BagError:
    """Why a file cannot be opened: held by another program, closed to this user, or not whole."""
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
