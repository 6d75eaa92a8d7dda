"""The process that holds something in a shared folder, and whether it is still there."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

__all__ = ["HOST_VARIABLE", "Owner", "this_process"]

HOST_VARIABLE = "COMEL_HOST"
"""Names this machine in place of its own name, where machines of a cluster are called the same."""

_START_TOLERANCE = 1.0


@dataclass(frozen=True)
class Owner:
    """A process on a machine.

    Attributes:
        host: the machine's name.
        machine: what tells its running system from every other: boot and space of process numbers.
        pid: the process' number there.
        started: when the process started, seconds since 1970 by that machine's clock.
    """

    host: str
    machine: str
    pid: int
    started: float

    def is_gone(self) -> bool:
        """Whether the process surely has ended. Only a process of this machine can be judged; another's may be there."""
        here = this_process()
        if (self.host, self.machine) != (here.host, here.machine):
            return False
        try:
            process = psutil.Process(self.pid)
            return bool(
                abs(process.create_time() - self.started) > _START_TOLERANCE or process.status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def this_process() -> Owner:
    """The process that asks."""
    pid = os.getpid()
    return Owner(os.environ.get(HOST_VARIABLE) or socket.gethostname(), _machine(), pid, _start_of(pid))


@cache
def _start_of(pid: int) -> float:
    started: float = psutil.Process(pid).create_time()
    return started


@cache
def _machine() -> str:
    """Two containers may share a boot and a host's name, but not their process numbers: these are part of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{psutil.boot_time():.0f}"
