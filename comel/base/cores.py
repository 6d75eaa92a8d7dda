"""How many processor cores this process may use: a container or a batch system may allow far fewer than the machine has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = [
    "THREADS_VARIABLE",
    "available_cores",
    "limit_torch_threads",
    "quota_of",
    "threads_to_start",
    "threads_wanted",
    "torch_threads",
]

THREADS_VARIABLE = "OMP_NUM_THREADS"
"""The environment variable with the number of threads a process should compute with, set by the user or the launcher."""

_MOST_TORCH_THREADS = 16
_GROUPS, _MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def available_cores() -> int:
    """The cores in the process's affinity, or its cgroup's share of processor time if less; whole cores, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of(_GROUPS, _MOUNTED)
    return cores if quota is None else max(1, min(cores, int(quota)))


def threads_wanted(environment: Mapping[str, str]) -> int | None:
    """The value of ``OMP_NUM_THREADS``, or the first of a list (for nested loops); None if it is not usable."""
    text = environment.get(THREADS_VARIABLE, "").partition(",")[0].strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def threads_to_start() -> int:
    """One thread per core that this process may use, or ``OMP_NUM_THREADS`` if that is fewer."""
    return min(available_cores(), threads_wanted(os.environ) or available_cores())


def limit_torch_threads() -> None:
    """Limit torch to the cores that this process may use, at most 16, unless ``OMP_NUM_THREADS`` is set.

    This affects the whole process; a command or a worker calls it at its start.
    """
    import torch

    if THREADS_VARIABLE not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), available_cores(), _MOST_TORCH_THREADS))


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use this many threads inside the block; by default as :func:`limit_torch_threads`."""
    import torch

    before = torch.get_num_threads()
    if count is None:
        limit_torch_threads()
    else:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quota_of(groups: Path, mounted: Path) -> float | None:
    """The processor time, in cores, that cgroups allow a process: the minimum over its group and the groups above it.

    Args:
        groups: the process's ``/proc/PID/cgroup``.
        mounted: where cgroups are mounted: version 2, version 1, or both, as on many systems.

    Returns:
        None if nothing limits it, or nothing can be read.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    quotas = []
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if controllers == "":
            places = [mounted, mounted / "unified"]
        elif "cpu" in controllers.split(","):
            places = [mounted / "cpu", mounted / controllers]
        else:
            continue
        # In a container the path may be the host's, of which only the top is visible here.
        inside = path.strip("/")
        steps = [inside, *map(str, Path(inside).parents)] if inside else ["."]
        quotas += [_quota_in(place / step) for place in places for step in steps]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_in(folder: Path) -> float | None:
    """One group's limit: ``cpu.max`` belongs to version 2, the other two files to version 1."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        limit = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return limit if limit > 0 else None
