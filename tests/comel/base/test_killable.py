"""A child process that may hang, crash, eat memory or be killed."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from comel.base import killable
from comel.base.killable import Fault, KillableWorker
from comel.errors import SlideError
from tests.failing import failing
from tests.places import ROOT


@pytest.fixture
def worker() -> Iterator[KillableWorker]:
    with KillableWorker() as made:
        yield made


def pid_and(value: int) -> tuple[int, int]:
    return os.getpid(), value


def refuse(path: str) -> None:
    raise SlideError(f"{path}: not a slide", "give another", stage="tissue")


def stumble() -> None:
    raise ValueError("two\nlines")


def die(by: int) -> None:
    os.kill(os.getpid(), by)
    time.sleep(600)


def note_and_die(path: Path) -> None:
    with open(path, "a") as stream:
        stream.write("once ")
    os._exit(3)


def leave(code: int) -> None:
    os._exit(code)


def count(limit: int, tell: Callable[[int], None]) -> int:
    for number in range(limit):
        tell(number)
    return limit


def greet() -> int:
    sys.stdout.write("hello from the child\n")
    os.system("echo hello from its child")
    return 1


def unsendable() -> object:
    return threading.Lock()


def hang_up() -> None:
    os.closerange(3, 256)
    time.sleep(600)


def freeze() -> None:
    """Be stopped, as a debugger or a full swap stops a process: it neither answers nor ends."""
    os.kill(os.getpid(), signal.SIGSTOP)


def freeze_in_the_middle_of_an_answer() -> bytes:
    def half(connection: Any, content: Any, write: Any = os.write) -> None:
        write(connection.fileno(), bytes(content)[: len(content) // 2])
        freeze()

    multiprocessing.connection.Connection._send = half  # type: ignore[attr-defined]
    return bytes(100_000)


def allocate(size: int) -> int:
    return len(bytearray(size))


def test_a_child_that_others_ended_while_it_waited_is_replaced(worker: KillableWorker) -> None:
    """Whether that is noticed before the call is sent, or only as no answer comes."""
    pids = set()
    for number in range(8):
        pid, value = worker.call(pid_and, number)
        assert value == number
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
    assert len(pids) == 8


def test_a_call_that_a_waiting_child_dies_of_is_not_made_again(worker: KillableWorker, tmp_path: Path) -> None:
    worker.call(pid_and, 0)
    with failing(Fault.DIED):
        worker.call(note_and_die, tmp_path / "calls")
    assert (tmp_path / "calls").read_text() == "once "


def test_ctrl_c_does_not_reach_the_child_from_its_first_moment(capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal sends it to every process of the foreground, those that are only just starting included."""
    for _ in range(4):
        with KillableWorker() as worker, ThreadPoolExecutor(1) as thread:
            answer = thread.submit(worker.call, pid_and, 1)
            sent = 0
            while not answer.done():
                if (pid := worker.pid) is not None:
                    os.kill(pid, signal.SIGINT)
                    sent += 1
                time.sleep(0.001)
            assert answer.result()[1] == 1
            assert sent
    assert not capfd.readouterr().err


def test_calls_share_a_process(worker: KillableWorker) -> None:
    first, second = worker.call(pid_and, 1), worker.call(pid_and, 2)
    assert first[0] == second[0] == worker.pid != os.getpid()
    assert (first[1], second[1]) == (1, 2)


def test_a_users_mistake_arrives_whole(worker: KillableWorker) -> None:
    with pytest.raises(SlideError, match=r"a.svs: not a slide; give another") as caught:
        worker.call(refuse, "a.svs")
    assert (caught.value.stage, caught.value.remedy) == ("tissue", "give another")


def test_a_defect_arrives_with_its_trace(worker: KillableWorker) -> None:
    with failing(Fault.DEFECT, match="ValueError: two lines") as caught:
        worker.call(stumble)
    assert "stumble" in caught.value.trace
    with failing(Fault.DEFECT, match="pickle"):
        worker.call(unsendable)
    assert worker.call(pid_and, 3)[1] == 3


@pytest.mark.parametrize(("function", "argument", "said"), [(die, signal.SIGSEGV, "SIGSEGV"), (leave, 7, "exit code 7")])
def test_a_crash_is_told_and_the_next_call_has_a_new_process(
    worker: KillableWorker, function: Callable[[int], None], argument: int, said: str
) -> None:
    before = worker.call(pid_and, 0)[0]
    with failing(Fault.DIED, match=said):
        worker.call(function, int(argument))
    assert worker.call(pid_and, 0)[0] != before


def test_a_child_that_only_hangs_up_is_not_said_to_have_died_of_our_signal(worker: KillableWorker) -> None:
    with failing(Fault.DIED, match=r"^the process no longer answered and was ended$") as caught:
        worker.call(hang_up)
    assert caught.value.exit_code is None
    assert worker.call(pid_and, 1)[1] == 1


def test_a_function_that_exits_is_told_and_the_process_stays(worker: KillableWorker) -> None:
    before = worker.call(pid_and, 0)[0]
    with failing(Fault.DEFECT, match=r"^SystemExit: no licence$"):
        worker.call(sys.exit, "no licence")
    assert worker.call(pid_and, 0)[0] == before


def test_a_hanging_call_is_cut(worker: KillableWorker) -> None:
    pid = worker.call(pid_and, 0)[0]
    with failing(Fault.LATE):
        worker.call(time.sleep, 600, timeout=0.3)
    assert not psutil.pid_exists(pid)
    assert worker.call(pid_and, 5)[1] == 5


def test_a_frozen_call_is_cut(worker: KillableWorker) -> None:
    with failing(Fault.LATE):
        worker.call(freeze, timeout=0.3)
    assert worker.call(pid_and, 5)[1] == 5


def test_a_child_that_freezes_while_it_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killable, "_FROZEN_SECONDS", 1.0)
    with KillableWorker() as worker:
        with failing(Fault.DIED, match="no longer answered"):
            worker.call(freeze_in_the_middle_of_an_answer, timeout=600)
        assert worker.call(pid_and, 5)[1] == 5


def say_and_hang(tell: Callable[[int], None]) -> None:
    tell(0)
    time.sleep(600)


def test_another_thread_kills(worker: KillableWorker) -> None:
    begun = threading.Event()

    def kill() -> None:
        assert begun.wait(600)
        worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with failing(Fault.STOPPED):
        worker.call(say_and_hang, tell=lambda _: begun.set())
    killer.join()


def test_messages_come_in_order_before_the_result(worker: KillableWorker) -> None:
    told: list[int] = []
    assert worker.call(count, 5, tell=told.append) == 5
    assert told == [0, 1, 2, 3, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts everything on Linux only")
def test_memory_has_a_limit() -> None:
    with KillableWorker(memory_bytes=256 << 20) as small:
        with failing(Fault.MEMORY):
            small.call(allocate, 1 << 30)
        assert small.call(allocate, 1 << 20) == 1 << 20


def hoard(size: int, tell: Callable[[int], None]) -> None:
    """Take memory in small pieces, which no allocator refuses, and keep talking."""
    kept: list[bytes] = []
    while len(kept) << 20 < size:
        kept.append(b"x" * (1 << 20))
        tell(len(kept))
        time.sleep(0.002)


def tell_for_ever(tell: Callable[[int], None]) -> None:
    while True:
        tell(0)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process uses is known on Linux only")
def test_a_call_that_uses_too_much_memory_is_ended() -> None:
    with KillableWorker(used_bytes=128 << 20) as small:
        child = small.call(os.getpid)
        assert small.call(hoard, 8 << 20, tell=lambda _: None) is None
        with failing(Fault.LIMIT, match=r"^it used more than 0\.125 GiB of memory$"):
            small.call(hoard, 2 << 30, tell=lambda _: None)
        assert small.call(os.getpid) != child


def test_every_kind_of_memory_error_is_told_as_one(worker: KillableWorker) -> None:
    """NumPy's is a class of its own."""
    with failing(Fault.MEMORY, match="Unable to allocate") as caught:
        worker.call(np.ones, 1 << 50)
    assert caught.value.kind == "MemoryError"


def test_a_call_that_keeps_talking_is_timed_out(worker: KillableWorker) -> None:
    with failing(Fault.LATE):
        worker.call(tell_for_ever, timeout=1, tell=lambda _: None)


def test_the_environment_is_there_from_the_start() -> None:
    with KillableWorker(environment={"COMEL_TEST_WORD": "yes"}) as told:
        assert told.call(os.getenv, "COMEL_TEST_WORD") == "yes"
    assert "COMEL_TEST_WORD" not in os.environ


def test_the_child_ends_with_a_parent_that_is_killed() -> None:
    """Also in the middle of a call, and for a script without a main guard."""
    script = """
    import os, signal, threading, time
    from comel.base.killable import KillableWorker
    worker = KillableWorker()
    worker.call(os.getpid)
    print(worker.pid, flush=True)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    worker.call(time.sleep, 600)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    pid, until = int(run.stdout), time.monotonic() + 600
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("closed", [False, True])
def test_what_the_child_prints_is_no_result(closed: bool) -> None:
    """Also not where standard error is closed."""
    program = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from comel.base.killable import KillableWorker
        from tests.comel.base.test_killable import greet
        if {closed}:
            os.close(2)
        with KillableWorker() as worker:
            print("result", worker.call(greet))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout == "result 1\n"
    assert sorted(done.stderr.splitlines()) == ([] if closed else ["hello from its child", "hello from the child"])
