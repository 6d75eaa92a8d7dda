"""Processes that threads share, and what is said of each way in which work in one comes to nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from comel.base.killable import Fault, WorkerFailure
from comel.base.workers import WorkerPool, failure
from comel.errors import BagError, ComelError, SlideError
from tests.failing import failing

LONG = 60.0


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool() as made:
        yield made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def hang() -> None:
    threading.Event().wait()


def begin_and_hang(tell: Callable[[None], None]) -> None:
    tell(None)
    threading.Event().wait()


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    threading.Event().wait()


def hoard(tell: Callable[[int], None]) -> None:
    """Take memory in small pieces, which no allocator refuses, until somebody puts an end to it."""
    kept: list[bytes] = []
    while len(kept) < 8192:
        kept.append(b"x" * (1 << 20))
        tell(len(kept))


def stumble() -> None:
    raise ValueError("first line\nsecond line")


def ask_torch_for_too_much() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried 1e15 bytes")


def refuse() -> None:
    raise SlideError("a.svs: no tissue", "look at it", stage="tissue")


def failed(call: Callable[..., Any], *arguments: Any, **limits: Any) -> WorkerFailure:
    with pytest.raises(WorkerFailure) as caught:
        call(*arguments, **limits)
    return caught.value


def begun(threads: ThreadPoolExecutor, pool: WorkerPool) -> Future[Any]:
    """A call that is under way in one of the pool's processes, and never ends by itself."""
    started = threading.Event()
    future = threads.submit(pool.call, begin_and_hang, tell=lambda _: started.set())
    assert started.wait(LONG)
    return future


@pytest.mark.parametrize(
    ("function", "arguments", "fault", "told"),
    [
        (os._exit, (3,), Fault.DIED, "s.svs: the process died (exit code 3); check the input; a copy may be damaged"),
        (
            end_by,
            (signal.SIGSEGV,),
            Fault.DIED,
            "s.svs: the process died (signal SIGSEGV); check the input; a copy may be damaged",
        ),
        (
            end_by,
            (signal.SIGKILL,),
            Fault.KILLED,
            "s.svs: the process died (signal SIGKILL); most often memory ran out: free some, or do less at once",
        ),
        (bytearray, (1 << 60,), Fault.MEMORY, "s.svs: MemoryError; free memory, or do less at once"),
        (ask_torch_for_too_much, (), Fault.MEMORY, "you tried 1e15 bytes; free memory, or do less at once"),
        (stumble, (), Fault.DEFECT, "s.svs: ValueError: first line second line; see the log"),
        (sys.exit, ("no licence",), Fault.DEFECT, "s.svs: SystemExit: no licence; see the log"),
    ],
)
def test_what_ends_a_call_is_told_in_one_line_and_the_next_call_is_answered(
    pool: WorkerPool, function: Callable[..., Any], arguments: tuple[Any, ...], fault: Fault, told: str
) -> None:
    error = failed(pool.call, function, *arguments)
    assert error.fault is fault
    assert str(failure(error, "s.svs")).endswith(told)
    assert "\n" not in str(failure(error, "s.svs"))
    assert pool.call(abs, -1) == 1


def test_a_call_that_takes_too_long_is_told(pool: WorkerPool) -> None:
    error = failed(pool.call, hang, timeout=0.2)
    assert error.fault is Fault.LATE
    assert str(failure(error, "s.svs")) == "s.svs: it took longer than 0.2 s; check the input and its disk, or allow more time"
    assert pool.call(abs, -1) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="what a process uses is known on Linux only")
def test_a_call_that_uses_too_much_memory_is_told() -> None:
    with WorkerPool(used_bytes=128 << 20) as pool:
        error = failed(pool.call, hoard, tell=lambda _: None)
        assert error.fault is Fault.LIMIT
        said = "s.svs: it used more than 0.125 GiB of memory; raise the limit, or do less at once"
        assert str(failure(error, "s.svs")) == said
        assert pool.call(abs, -1) == 1


def test_a_process_that_cannot_be_started_is_told(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        error = failed(pool.call, abs, -1)
    assert error.fault is Fault.START
    said = "s.svs: no process can be started (No such file or directory); close other programs, or raise the limits"
    assert str(failure(error, "s.svs")).startswith(said)
    assert pool.call(abs, -1) == 1


def test_who_waits_too_long_for_a_process_is_told(pool: WorkerPool, threads: ThreadPoolExecutor) -> None:
    held = begun(threads, pool)
    error = failed(pool.call, abs, -1, wait=0.0)
    assert error.fault is Fault.BUSY
    assert str(failure(error, "s.svs")) == "s.svs: no process became free within 0 s; try again later"
    waiting = threads.submit(pool.call, abs, -1, wait=LONG)
    pool.kill()
    assert failed(held.result, LONG).fault is Fault.STOPPED
    assert waiting.result(LONG) == 1


def test_a_killed_call_is_told_and_the_pool_goes_on(pool: WorkerPool, threads: ThreadPoolExecutor) -> None:
    held = begun(threads, pool)
    pool.kill()
    error = failed(held.result, LONG)
    assert str(failure(error, "s.svs")) == "s.svs: it was stopped; start it again"
    assert pool.call(abs, -1) == 1


def test_a_pool_that_is_closed_ends_what_is_under_way_and_what_waits(threads: ThreadPoolExecutor) -> None:
    pool = WorkerPool(2)
    calls = [begun(threads, pool), begun(threads, pool), threads.submit(pool.call, abs, -1)]
    pool.close()
    for call in calls:
        with failing(Fault.STOPPED):
            call.result(LONG)
    assert pool.pids == []
    with failing(Fault.STOPPED):
        pool.call(abs, -1)
    pool.close()


def test_calls_that_come_together_have_a_process_each_and_later_ones_the_last(threads: ThreadPoolExecutor) -> None:
    with WorkerPool(2) as pool:
        first = pool.call(os.getpid)
        assert pool.call(os.getpid) == first
        assert pool.pids == [first]
        held = [begun(threads, pool), begun(threads, pool)]
        assert len(set(pool.pids)) == 2
        pool.kill()
        assert [failed(call.result, LONG).fault for call in held] == [Fault.STOPPED] * 2


def test_a_process_that_died_takes_no_other_call_with_it(threads: ThreadPoolExecutor) -> None:
    with WorkerPool(2) as pool:
        held = begun(threads, pool)
        with failing(Fault.DIED):
            pool.call(os._exit, 1)
        assert pool.call(abs, -1) == 1
        assert not held.done()
        pool.kill()
        assert failed(held.result, LONG).fault is Fault.STOPPED


def test_a_users_mistake_is_told_as_it_is(pool: WorkerPool) -> None:
    with pytest.raises(SlideError, match=r"^a\.svs: no tissue; look at it$") as caught:
        pool.call(refuse)
    assert caught.value.stage == "tissue"


def test_limits_and_variables_are_those_of_every_process() -> None:
    with WorkerPool(memory_bytes=256 << 20, environment={"COMEL_TEST_WORD": "yes"}) as pool:
        assert pool.call(os.getenv, "COMEL_TEST_WORD") == "yes"
        if sys.platform == "linux":
            assert failed(pool.call, bytearray, 1 << 30).fault is Fault.MEMORY


@pytest.mark.parametrize(
    ("function", "arguments", "answered"),
    [
        (end_by, (signal.SIGKILL,), {Fault.DIED}),
        (end_by, (signal.SIGKILL,), {Fault.KILLED}),
        (end_by, (signal.SIGSEGV,), {Fault.DIED}),
        (bytearray, (1 << 60,), {Fault.DEFECT}),
        (bytearray, (1 << 60,), {Fault.MEMORY}),
        (stumble, (), {Fault.DEFECT}),
    ],
)
def test_a_place_that_has_its_own_words_says_those(
    pool: WorkerPool, function: Callable[..., Any], arguments: tuple[Any, ...], answered: set[Fault]
) -> None:
    own = BagError("our words", "our remedy")
    said: dict[Fault, ComelError] = {
        fault: ComelError("other words") for fault in Fault if fault not in (Fault.MEMORY, Fault.KILLED)
    }
    said |= dict.fromkeys(answered, own)
    assert failure(failed(pool.call, function, *arguments), "s.svs", said) is own


def test_an_answer_to_a_defect_says_nothing_of_an_end_that_was_made_here(pool: WorkerPool) -> None:
    error = failed(pool.call, hang, timeout=0.2)
    assert "it took longer" in str(failure(error, "s.svs", {Fault.DEFECT: ComelError("a defect")}))
