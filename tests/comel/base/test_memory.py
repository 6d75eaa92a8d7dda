"""What is freed is not asked of the system again; counted, not timed."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest

from comel.base.killable import KillableWorker
from comel.base.memory import keep_freed_memory
from tests.places import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


def faults_of_blocks() -> int:
    """Page faults of nine blocks of 40 MiB that are filled and freed, after a first one."""
    import ctypes
    import resource

    libc: Any = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    faults = 0
    for turn in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(40 << 20)
        libc.memset(block, 1, 40 << 20)
        libc.free(block)
        faults += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before if turn else 0
    return faults


def test_a_child_asks_for_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    with KillableWorker() as worker:
        assert worker.call(faults_of_blocks) < 50
    # Nine times twenty pages even where the system has large ones.
    with KillableWorker(environment={"MALLOC_TRIM_THRESHOLD_": "131072"}) as worker:
        assert worker.call(faults_of_blocks) >= 180


def test_the_command_asks_for_memory_once() -> None:
    script = """
import comel.app.cli as cli
from tests.comel.base.test_memory import faults_of_blocks
cli.app = lambda **_: print(faults_of_blocks())
cli.main()
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 50


def test_what_the_user_says_of_it_stands() -> None:
    assert not keep_freed_memory({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
