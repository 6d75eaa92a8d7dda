"""A check of an uploaded HDF5 file before anything in it is read: only names, links, shapes, filters and attributes.

A bag is a handful of plain arrays. Anything that makes a reader follow, expand or allocate more than the file holds is refused
here: links, virtual and external storage, huge declared shapes or chunks, other filters, deep or crowded groups, and
attributes that repeat one stored string many times.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from comel.base.hdf5 import check_attributes, open_hdf5
from comel.errors import BagError
from service.errors import TooLargeError

__all__ = ["HDF5_SIGNATURE", "check_hdf5"]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

MAX_OBJECTS = 200
MAX_DEPTH = 4
MAX_CHUNK_BYTES = 256 << 20
# gzip, shuffle, fletcher32 and lzf: included in h5py, and accepted by the bags' reader.
_FILTERS = frozenset({1, 2, 3, 32000})
_REMEDY = "send a file that holds its own data in plain arrays"


def check_hdf5(path: Path, *, max_bytes: int, max_instances: int) -> None:
    """Refuse a hostile file.

    Args:
        path: the file.
        max_bytes: most bytes of its decoded arrays in total.
        max_instances: most rows of ``features`` or ``feats``.

    Raises:
        BagError: it is damaged, or has content that a bag does not have.
        TooLargeError: it declares more than that.
    """
    with open_hdf5(path) as file:
        walk = _Walk(path)
        walk.group(file, "", 0)
    if walk.declared > max_bytes:
        raise TooLargeError(f"{path}: declares {walk.declared} bytes", f"at most {max_bytes} are read")
    if walk.instances > max_instances:
        raise TooLargeError(f"{path}: {walk.instances} instances", f"at most {max_instances} are taken")


class _Walk:
    """One pass over a file's objects, bounded in depth and number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.declared = self.instances = self._objects = 0

    def group(self, group: Any, place: str, depth: int) -> None:
        import h5py

        check_attributes(group, self.path)
        if depth > MAX_DEPTH:
            raise self._refusal(f"groups nested deeper than {MAX_DEPTH}")
        # Counted before listing: the list of a crowded group would itself be long.
        self._objects += group.id.get_num_objs()
        if self._objects > MAX_OBJECTS:
            raise self._refusal(f"more than {MAX_OBJECTS} objects")
        for name in group:
            inside = f"{place}/{name}"
            # Not group.get(): it opens the file that an external link names.
            if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                raise self._refusal(f"'{inside[:80]}' is a link")
            thing = group[name]
            if isinstance(thing, h5py.Group):
                self.group(thing, inside, depth + 1)
            elif isinstance(thing, h5py.Dataset):
                self._dataset(thing, inside)

    def _dataset(self, dataset: Any, place: str) -> None:
        check_attributes(dataset, self.path)
        if dataset.is_virtual or dataset.external:
            raise self._refusal(f"'{place[:80]}' does not hold its own data")
        properties = dataset.id.get_create_plist()
        if not {properties.get_filter(index)[0] for index in range(properties.get_nfilters())} <= _FILTERS:
            raise self._refusal(f"'{place[:80]}' uses a filter that is not accepted")
        shape = dataset.shape or ()
        size = dataset.id.get_type().get_size()
        # The library decompresses a whole chunk into memory, however little of it the shape uses.
        chunk = math.prod(dataset.chunks or ()) * size
        if chunk > MAX_CHUNK_BYTES:
            raise self._refusal(f"'{place[:80]}' has chunks of {chunk} bytes")
        self.declared += math.prod(shape) * size
        if place in ("/features", "/feats") and shape:
            self.instances = max(self.instances, max(shape[:-1], default=shape[0]))

    def _refusal(self, what: str) -> BagError:
        return BagError(f"{self.path}: {what}", _REMEDY)
