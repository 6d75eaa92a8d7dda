"""The service's own log: one event per line on standard error, JSON unless it is a terminal. No event names a file or a slide.

A warning or an error repeated identically within a minute is counted and not written; its next line
gives the count. Writing never fails: a log on a full disk, or whose reader is gone, must not end the work it reports on.

Nothing global is set up by importing or by making a logger; :func:`route_library_logs` is for the process that listens.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, TextIO

import structlog

from comel.base.killable import WorkerFailure

__all__ = ["Repeats", "describe_defect", "make_log", "route_library_logs"]


def make_log(stream: TextIO | None = None) -> Any:
    """A structlog logger that writes to ``stream``, standard error by default."""
    target = sys.stderr if stream is None else stream
    renderer: Any = structlog.processors.JSONRenderer()
    if target.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    return structlog.wrap_logger(
        _Lines(target),
        processors=[
            structlog.processors.add_log_level,
            Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
    )


class Repeats:
    """A processor that drops a warning or an error which came less than ``seconds`` ago; requests' lines are all kept."""

    def __init__(self, seconds: float = 60.0, most: int = 1000, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._known: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method not in ("warning", "error", "critical") or event.get("event") == "request":
            return event
        same, now = repr(sorted(event.items(), key=lambda item: item[0])), self._clock()
        with self._lock:
            written, dropped = self._known.get(same, (-self._seconds, 0))
            if now - written < self._seconds:
                self._known[same] = written, dropped + 1
                raise structlog.DropEvent
            self._known[same] = now, 0
            self._known.move_to_end(same)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        if dropped:
            event["repeated"] = dropped
        return event


class _Lines(structlog.PrintLogger):
    """Writes lines, and continues if they cannot be written."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def describe_defect(error: BaseException) -> dict[str, Any]:
    """What failed and where in the code, here or in a child process.

    The error's text is left out: it may hold a path or a patient's name.
    """
    if isinstance(error, WorkerFailure) and error.trace:
        lines = [line.strip() for line in error.trace.splitlines()]
        places = [" ".join(line.rsplit("/", 1)[-1].split()) for line in lines if line.startswith("File ")]
        return {"error": error.kind, "places": places[-8:]}
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{'/'.join(frame.filename.rsplit('/', 3)[1:])}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "places": places[-8:]}


class _LibraryHandler(logging.Handler):
    """Other libraries' records as events: uvicorn's unchanged, of all others only that there was one."""

    def __init__(self, log: Any) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = getattr(self._log, "error" if record.levelno >= logging.ERROR else record.levelname.lower(), self._log.info)
        about: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            write("library error", **about, **describe_defect(record.exc_info[1]))
        elif record.name.partition(".")[0] == "uvicorn":
            write(record.getMessage(), **about)
        elif record.levelno >= logging.WARNING:
            write("library message, its text left out: it may name a file", **about)


def route_library_logs(log: Any) -> None:
    """Send the records of this process's libraries, and Python's warnings, to ``log``."""
    root = logging.getLogger()
    root.handlers = [_LibraryHandler(log)]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
