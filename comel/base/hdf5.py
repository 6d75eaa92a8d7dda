"""HDF5 files that are not trusted: opened, listed and read with every failure as one :class:`~comel.errors.BagError`."""

from __future__ import annotations

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

    if not path.is_file():
        raise BagError(f"{path}: no such file", "check the path, or extract the slide first")
    if path.stat().st_size == 0:
        raise BagError(f"{path}: the file is empty", "extract the slide again")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BagError(f"{path}: truncated or not HDF5 ({first_line(error)})", "extract the slide again") from None
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
    return np.asarray(dataset[()])


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
