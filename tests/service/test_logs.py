"""What is written to the log: a line that comes again and again is counted, and no line ends what it is about."""

from __future__ import annotations

import errno
import io
import json
import logging
from contextlib import suppress
from typing import Any

import pytest
import structlog

from service.logs import Repeats, make_log, route_library_logs


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_warning_that_comes_again_is_counted_and_other_lines_are_not() -> None:
    stream = io.StringIO()
    log = make_log(stream)
    for _ in range(1000):
        log.error("the database does not answer", error="OperationalError", places=["a", "b"])
    log.error("the database does not answer", error="InterfaceError", places=["a", "b"])
    for number in range(5):
        log.info("job", job="a")
        log.error("request", status=500)
        log.warning("a worker process died", job=str(number))
    written = [event["event"] for event in events(stream)]
    assert written.count("the database does not answer") == 2
    assert written.count("job") == written.count("request") == written.count("a worker process died") == 5


def test_the_next_line_says_how_often_it_came() -> None:
    now = 0.0
    repeats = Repeats(60.0, clock=lambda: now)

    def write() -> dict[str, Any] | None:
        with suppress(structlog.DropEvent):
            return dict(repeats(None, "error", {"event": "away", "level": "error"}))
        return None

    assert write() == {"event": "away", "level": "error"}
    assert [write() for _ in range(7)] == [None] * 7
    now = 61.0
    assert write() == {"event": "away", "level": "error", "repeated": 7}
    assert write() is None


def test_what_is_remembered_of_lines_has_an_end() -> None:
    repeats = Repeats(most=10)
    for number in range(100):
        repeats(None, "warning", {"event": str(number)})
    assert len(repeats._known) == 10


def test_what_libraries_say_again_and_again_is_counted_too() -> None:
    """A client can have uvicorn warn as often as it likes, and a process without descriptors says so at every connection."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    try:
        route_library_logs(make_log(stream))
        for _ in range(50):
            logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
            try:
                raise OSError(errno.EMFILE, "Too many open files")
            except OSError:
                logging.getLogger("asyncio").exception("socket.accept() out of system resource")
    finally:
        root.handlers = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    assert len(events(stream)) == 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(), ValueError("closed")])
def test_a_log_that_cannot_be_written_ends_nothing(error: Exception) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    log = make_log(Full())
    log.info("request", status=200)
    log.error("away")
