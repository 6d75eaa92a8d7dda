"""Memory that was freed stays with the process for the next that is asked for, as far as the C library lets itself be told.

A network on a CPU asks for the same few blocks of megabytes in every pass. By default glibc gives them back to the system in
between, which clears them before it gives them out again: a quarter of the time of the default patch encoder. What stays is at
most what was needed at once, up to 256 MiB for each thread. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

__all__ = ["keep_freed_memory"]

_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3)
_KEPT_BYTES, _MAPPED_BYTES = 256 << 20, 64 << 20


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep up to 256 MiB that was freed, and let only blocks above 64 MiB come from the system each time.

    For the whole process: for a command or a worker to call, at its start. Nothing is changed if ``environment`` has one of
    glibc's own variables for it.

    Returns:
        Whether the C library took it.
    """
    if sys.platform != "linux" or any(name in environment for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Each of them ends glibc's own adjusting of both, so one alone would make it worse.
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)) and bool(mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES))
