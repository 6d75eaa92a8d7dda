"""Keep libraries' output off the terminal: exceptions report what is wrong with a file."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["libraries_silenced"]

_LOGGERS = ("PIL", "pydicom", "tifffile")
_PRINTED = re.compile(rb"^(\(\S+:\d+\): \S+-(WARNING|CRITICAL|Message) |tempfile\.tif|TIFF|OpenJPEG|libpng |Corrupt JPEG|\s*$)")
"""Lines printed by GLib and C image decoders. Other lines may come from another thread."""
_STDERR = 2
_alone = threading.RLock()


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """While the block runs, drop Python's warnings, image libraries' logs, and C libraries' output on standard error.

    Other lines printed meanwhile appear when the block ends. One thread at a time.
    """
    with _alone, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with _caught_stderr():
            yield


@contextmanager
def _caught_stderr() -> Iterator[None]:
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(_STDERR)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), _STDERR)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, _STDERR)
            os.close(kept)
            caught.seek(0)
            if others := [line for line in caught if not _PRINTED.match(line)]:
                os.write(_STDERR, b"".join(others))
