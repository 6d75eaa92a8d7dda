"""Files that are either complete or absent (temporary name, flush, rename), and hashes of content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "atomic_path",
    "canonical_json",
    "is_dicom",
    "is_plain",
    "not_a_pipe",
    "parse_json",
    "read_bytes",
    "read_json",
    "sha256_of_arrays",
    "sha256_of_file",
    "sha256_of_json",
    "write_json",
    "write_text",
]

_TEMPORARY_PREFIX = ".partial-"
_PIPE = "not a file but a folder, a pipe or a device"
_MAX_JSON_BYTES = 256 << 20


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o666, parents: bool = True) -> Iterator[Path]:
    """Yield a temporary name in the target's folder; on success flush it to disk and rename it to ``path``.

    On any error the temporary file is removed and ``path`` is left unchanged, so a file that exists under its final
    name is complete.

    Args:
        path: the final name.
        mode: the file's permissions, less what the umask takes.
        parents: create the folder if it is missing.
    """
    path = Path(path)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    # File systems limit a name's bytes.
    stem = path.stem.encode()[:80].decode(errors="ignore")
    temporary = path.with_name(f"{_TEMPORARY_PREFIX}{stem}-{secrets.token_hex(6)}{path.suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write ``text`` to ``path`` atomically, UTF-8; ``mode`` as in :func:`atomic_path`."""
    with atomic_path(path, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, mode: int = 0o666) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically. NaN and infinity are refused: write None instead."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode=mode)


def is_plain(path: Path) -> bool:
    """Whether ``path`` is a regular file: not a link, a folder, a pipe or a device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def not_a_pipe(path: Path) -> None:
    """Refuse a pipe or a device, following links, before it is opened: reading it could block or never end.

    Raises:
        OSError: it is a pipe or a device, or does not exist.
    """
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path) == os.devnull):
        raise OSError(errno.EINVAL, _PIPE, str(path))


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """The content of a file, without ever blocking: a pipe or a device is refused.

    Raises:
        OSError: there is no such file, it is not a regular file, or it is larger than ``max_bytes``.
    """
    # Not open(): on a pipe it waits for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, _PIPE, str(path))
        if max_bytes is not None and about.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"holds {about.st_size >> 20} MiB", str(path))
        return stream.read()


def read_json(path: Path) -> Any:
    """Read a JSON file, UTF-8.

    Raises:
        OSError: see :func:`read_bytes`.
        ValueError: it is not JSON, has a key twice, is nested too deeply for Python, or contains NaN or infinity.
    """
    return parse_json(read_bytes(path, _MAX_JSON_BYTES).decode("utf-8"))


def parse_json(text: str) -> Any:
    """The value of a JSON text; see :func:`read_json`.

    Raises:
        ValueError: it is not JSON, has a key twice, is nested too deeply for Python, or contains NaN or infinity.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return content


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def is_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM, whatever its name.

    A file that is both TIFF and DICOM counts as TIFF, as in OpenSlide; a DICOMDIR is an index, not an image.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() in (".tif", ".tiff") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def canonical_json(value: Any) -> str:
    """The same text for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_json(value: Any) -> str:
    """SHA-256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of_file(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 (hex) of a file's bytes, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    not_a_pipe(path)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def sha256_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and values of arrays, in order of name."""
    import numpy as np  # not needed to read settings

    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
