"""Claims that several processes and hosts compete for."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch.claims import Claim, Claims
from pipelines.batch.owner import HOST_VARIABLE, Owner, this_process
from tests.places import ROOT

ELSEWHERE = Owner("elsewhere", "another boot", 1, 0.0)


def leave_claim(folder: Path, name: str, owner: Owner, *, age: float = 0.0, token: str = "theirs") -> Path:
    """A claim as another process would have left it."""
    path = folder / name
    path.write_text(json.dumps({"token": token, **asdict(owner)}))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture
def ended() -> Owner:
    """A process of this machine that is no more."""
    return replace(this_process(), pid=2**22 + 1)


def test_one_of_many_threads_gets_a_claim(tmp_path: Path) -> None:
    start = threading.Barrier(16)

    def compete(number: int) -> int:
        claims = Claims(tmp_path)
        won = 0
        for name in range(20):
            start.wait()
            won += claims.take(str(name)) is not None
        return won

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(compete, range(16))) == 20


COMPETE = """
import sys
from pathlib import Path
from pipelines.batch.claims import Claims
claims = Claims(Path(sys.argv[1]), expiry=60)
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
print(*[number for number in range(int(sys.argv[2])) if claims.take(str(number)) is not None])
"""


def test_one_of_many_processes_takes_a_stale_claim_over(tmp_path: Path, ended: Owner) -> None:
    count, processes = 60, 4
    for number in range(count):
        leave_claim(
            tmp_path,
            f"{number}.claim",
            *((ended,) if number % 2 else (ELSEWHERE,)),
            age=0 if number % 2 else 90,
            token=str(number),
        )
    command = [sys.executable, "-c", COMPETE, str(tmp_path), str(count)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(
            command, env={**os.environ, HOST_VARIABLE: f"host-{number}" if number else "", "PYTHONPATH": str(ROOT)}, **pipes
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(number) for process in running for number in process.communicate(timeout=600)[0].split()]
    # The claims of a process that has ended can be judged on its own machine only: the first of the four poses as no other.
    assert sorted(won) == list(range(count))
    assert not list(tmp_path.glob(".right-*"))
    assert not list(tmp_path.glob(".new-*"))


def test_who_looks_late_finds_the_claim_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between judging a claim stale and replacing it, another claimant does both."""
    leave_claim(tmp_path, "slide.claim", ELSEWHERE, age=500)
    slow, quick = Claims(tmp_path), Claims(tmp_path)
    judged = slow._is_stale
    taken: list[Claim | None] = []

    def judge_late(held: Any) -> bool:
        stale = judged(held)
        if not taken:
            taken.append(quick.take("slide"))
        return stale

    monkeypatch.setattr(slow, "_is_stale", judge_late)
    assert slow.take("slide") is None
    assert taken[0] is not None
    assert quick.touch(taken[0])


@pytest.mark.parametrize(
    ("owner", "age", "free"),
    [
        (lambda here: here, 0, False),
        (lambda here: here, 500, True),
        (lambda here: replace(here, pid=2**22 + 1), 0, True),
        (lambda here: replace(here, started=here.started - 60), 0, True),
        (lambda here: replace(here, host="other", pid=2**22 + 1), 0, False),
        (lambda here: replace(here, machine="other", pid=2**22 + 1), 0, False),
        (lambda here: replace(here, host="other"), 500, True),
    ],
    ids=["alive", "silent", "ended", "its number reused", "other host", "other boot", "other host, silent"],
)
def test_when_a_claim_is_stale(tmp_path: Path, owner: Callable[[Owner], Owner], age: float, free: bool) -> None:
    leave_claim(tmp_path, "slide.claim", owner(this_process()), age=age)
    claims = Claims(tmp_path)
    assert claims.is_live("slide") is not free
    assert list(claims.live()) == ([] if free else ["slide"])
    assert (claims.take("slide") is not None) is free


def test_age_is_told_by_the_file_servers_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_claim(tmp_path, "slide.claim", ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    assert Claims(tmp_path).take("slide") is None


def test_a_touched_claim_lives_on_and_a_released_one_is_free(tmp_path: Path) -> None:
    claims = Claims(tmp_path, expiry=100)
    claim = claims.take("slide")
    assert claim is not None
    path = tmp_path / "slide.claim"
    os.utime(path, (time.time() - 99, time.time() - 99))
    assert claims.touch(claim)
    assert time.time() - path.stat().st_mtime < 50
    claims.release(claim)
    assert claims.take("slide") is not None


def test_who_slept_too_long_leaves_its_successors_claim_alone(tmp_path: Path) -> None:
    sleeper, successor = Claims(tmp_path), Claims(tmp_path)
    lost = sleeper.take("slide")
    assert lost is not None
    os.utime(tmp_path / "slide.claim", (0, 0))
    claim = successor.take("slide")
    assert claim is not None
    assert not sleeper.touch(lost)
    sleeper.release(lost)
    assert successor.touch(claim)


def test_a_claimant_that_dies_while_it_takes_over_blocks_nobody(tmp_path: Path, ended: Owner) -> None:
    leave_claim(tmp_path, "slide.claim", ended, token="first")
    leave_claim(tmp_path, ".right-first", ended, token="second")
    leave_claim(tmp_path, ".right-second", ended, token="third")
    claims = Claims(tmp_path)
    assert claims.take("slide") is not None
    claims.close()
    assert [path.name for path in tmp_path.iterdir()] == ["slide.claim"]


def test_one_that_takes_over_now_is_not_disturbed(tmp_path: Path, ended: Owner) -> None:
    leave_claim(tmp_path, "slide.claim", ended, token="first")
    leave_claim(tmp_path, ".right-first", this_process())
    assert Claims(tmp_path).take("slide") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": "x"}', b"\xff" * 9000])
def test_a_claim_that_cannot_be_read_counts_by_its_age(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "slide.claim").write_bytes(content)
    claims = Claims(tmp_path)
    assert claims.take("slide") is None
    os.utime(tmp_path / "slide.claim", (0, 0))
    assert claims.take("slide") is not None


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Owner) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    claims = Claims(tmp_path)
    claim = claims.take("slide")
    assert claim is not None
    assert claims.take("slide") is None
    claims.release(claim)
    leave_claim(tmp_path, "slide.claim", ended)
    assert claims.take("slide") is not None


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", twice)
    assert Claims(tmp_path).take("slide") is not None


def test_another_error_of_the_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        Claims(tmp_path).take("slide")
    assert not list(tmp_path.glob(".new-*"))
