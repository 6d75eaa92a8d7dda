"""The audit log: a line is whole or absent, and what must be in it is not done without."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from comel.errors import ComelError, ConfigError
from service.access import audit
from service.access.audit import AuditLog, Reserve
from service.errors import NoRoomError, NotReadyError


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path)


def lines(log: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def full(monkeypatch: pytest.MonkeyPatch, after: int, *, code: int = errno.ENOSPC) -> None:
    """Let a disk take so many bytes more."""
    left, write = after, os.write

    def some(descriptor: int, content: Any) -> int:
        nonlocal left
        if not left:
            raise OSError(code, os.strerror(code))
        taken = write(descriptor, bytes(content)[:left])
        left -= taken
        return taken

    monkeypatch.setattr(os, "write", some)


@pytest.mark.parametrize("after", [0, 1, 40])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_line_that_does_not_fit_leaves_nothing(after: int, code: int, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.record("read", key=None, outcome="done")
    with monkeypatch.context() as patch:
        full(patch, after, code=code)
        with pytest.raises(NoRoomError, match="no room"):
            log.record("read", key=None, outcome="done", part="x" * 200)
        with pytest.raises(NoRoomError), log.recorded("read", key=None):
            pass
    log.record("read", key=None, outcome="done")
    assert len(lines(log)) == 2


def test_several_lines_are_written_all_or_none(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        full(patch, 300)
        with pytest.raises(NoRoomError):
            log.record_all("delete", key=None, outcome="done", facts=[{"prediction": "a" * 32}] * 5)
    log.record_all("delete", key=None, outcome="done", facts=[{"prediction": "a" * 32}] * 5)
    assert len(lines(log)) == 5


@pytest.mark.parametrize("torn", ['{"time": "2026', "", "\x00" * 100, "x" * 100_000])
def test_a_part_of_a_line_that_a_power_cut_left_is_removed(torn: str, log: AuditLog) -> None:
    log.record("read", key=None, outcome="done")
    with open(log.path, "a") as file:
        file.write(torn)
    log.record("predict", key=None, outcome="done")
    found = [
        json.loads(line)["action"] for line in log.path.read_text().splitlines() if line.startswith("{") and line.endswith("}")
    ]
    assert found == ["read", "predict"]
    assert log.path.read_bytes().endswith(b"\n")


def test_a_log_that_may_only_be_appended_to_is_appended_to(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """As chattr +a has it: what was torn stays, and ends where the next line begins."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "ftruncate", refuse)
    log.path.write_text('{"torn"')
    log.record("read", key=None, outcome="done")
    torn, whole = log.path.read_text().splitlines()
    assert (torn, json.loads(whole)["action"]) == ('{"torn"', "read")


def test_lines_of_many_writers_stay_whole(log: AuditLog) -> None:
    def write(number: int) -> None:
        other = AuditLog(log.path.parent)
        for _ in range(20):
            other.record("read", key=f"k{number}", outcome="done", part="x" * 500)

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(log)) == 160


def test_a_writer_that_is_frozen_stops_no_other(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_LOCK_SECONDS", 0.2)
    log.record("read", key=None, outcome="done")
    descriptor = os.open(log.path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    log.record("read", key=None, outcome="done")
    os.close(descriptor)
    assert len(lines(log)) == 2


def test_what_is_done_for_good_is_written_first(log: AuditLog) -> None:
    done: list[str] = []
    with log.recorded("delete", key="k", prediction="a") as record:
        record()
        done = [line["outcome"] for line in lines(log)]
        record()
    assert done == ["done"]
    assert len(lines(log)) == 1
    with pytest.raises(ComelError), log.recorded("delete", key="k", prediction="b"):
        raise ComelError("there is none")
    assert [line["outcome"] for line in lines(log)] == ["done", "refused"]
    with suppress(ZeroDivisionError), log.recorded("delete", key="k", prediction="c") as record:
        record()
        raise ZeroDivisionError
    assert [line["outcome"] for line in lines(log)][2:] == ["done", "failed"]


def test_what_the_log_cannot_have_is_not_done(log: AuditLog) -> None:
    log.path.mkdir()
    done, said = False, ""
    try:
        with log.recorded("delete", key="k") as record:
            record()
            done = True
    except NotReadyError as error:
        said = error.what
    assert (done, "audit log cannot be written" in said) == (False, True)


def test_the_reserve_is_given_up_in_part_and_taken_back(tmp_path: Path) -> None:
    reserve, path = Reserve(tmp_path, 1 << 20), tmp_path / "reserve"
    assert not reserve.lend()
    reserve.refill()
    about = path.stat()
    assert (about.st_size, about.st_mode & 0o777) == (1 << 20, 0o600)
    assert about.st_blocks * 512 >= 1 << 20  # it takes room, or it would keep none
    lent = 0
    while reserve.lend(1000):
        lent += 1
    assert lent == 8
    assert path.stat().st_size == 1 << 19
    while reserve.lend(1000, last=True):
        lent += 1
    assert (lent, path.stat().st_size) == (16, 0)
    reserve.refill()
    assert path.stat().st_size == 1 << 20


def test_lines_go_on_for_a_while_on_a_full_disk(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.reserve.refill()
    write, held = os.write, (1 << 20)

    def only_what_was_lent(descriptor: int, content: Any) -> int:
        nonlocal held
        if log.reserve._path.stat().st_size >= held:
            raise OSError(errno.ENOSPC, "No space left on device")
        held = log.reserve._path.stat().st_size
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", only_what_was_lent)
    for _ in range(8):
        log.record("read", key=None, outcome="done")
    with pytest.raises(NoRoomError):
        log.record("read", key=None, outcome="done")
    for _ in range(8):
        log.record("delete", key=None, outcome="done")
    with pytest.raises(NoRoomError):
        log.record("delete", key=None, outcome="done")
    assert len(lines(log)) == 16


def test_a_key_of_pseudonyms_that_cannot_be_written_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full(patch, 0)
        with pytest.raises(ConfigError, match=r"pseudonym\.key: cannot be used"):
            AuditLog(tmp_path)
    assert list(tmp_path.iterdir()) == []
    AuditLog(tmp_path)
