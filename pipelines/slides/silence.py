"""What libraries in C print on standard error, kept from the terminal."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["libraries_silenced"]

_NOISE = re.compile(rb"^(\(\S+:\d+\): \S+-(WARNING|CRITICAL|Message) |tempfile\.tif|TIFF|OpenJPEG|libpng |Corrupt JPEG|\s*$)")
_STDERR = 2
_alone = threading.RLock()


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """While the block runs, drop what GLib, libtiff and their like print on standard error.

    They know no other place for it, and what is wrong with a file is said by an exception. Lines of other origin, from a
    thread that writes meanwhile, are printed when the block ends. One thread at a time.
    """
    with _alone:
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
                sys.stderr.flush()
                os.dup2(kept, _STDERR)
                os.close(kept)
                caught.seek(0)
                others = [line for line in caught if not _NOISE.match(line)]
                if others:
                    os.write(_STDERR, b"".join(others))
