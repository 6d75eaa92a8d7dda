"""Limits on connections: request heads that do not arrive, bodies that continue after the answer, answers that
are not read, and too many connections. Connections that uvicorn leaves open are closed here.

The minimum speed of a request's body is enforced where it is read (:class:`service.http.middleware.BodyLimits`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from comel.errors import ConfigError
from service.http.problems import MEDIA_TYPE, problem
from service.settings import ServiceSettings

__all__ = ["Server", "check_descriptors", "protocol_of"]

OTHER_DESCRIPTORS = 256
"""Open files, pipes and database connections besides those of clients."""
REST_SECONDS = 5.0
"""Seconds in which the rest of a body may arrive after its request was answered."""


class Server(uvicorn.Server):
    """uvicorn's server, which checks its connections once a second.

    Args:
        config: its ``http`` comes from :func:`protocol_of`.
        stopping: called when it is asked to stop; running requests still end.
    """

    def __init__(self, config: uvicorn.Config, *, stopping: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See the base class."""
        self._stopping()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """See the base class."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                connection.look(now)  # type: ignore[union-attr]
        return await super().on_tick(counter)


def protocol_of(settings: ServiceSettings) -> type[H11Protocol]:
    """uvicorn's protocol with the limits of the settings."""

    class Connection(H11Protocol):
        """One connection; ``_since`` is when its current wait began, ``_heard`` whether any of the data has arrived."""

        _since, _heard = 0.0, False
        _unread: float | None = None
        _closing: float | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._since = self.loop.time()
            if len(self.connections) <= settings.max_connections:
                return
            others: list[Any] = [one for one in self.connections if one is not self and not one.transport.is_closing()]
            if len(others) >= settings.max_connections:
                if waiting := [one for one in others if one.is_waiting()]:
                    min(waiting, key=lambda one: one._since).transport.abort()
                else:
                    self._refuse(503, "there are too many connections", "try again in a minute")

        def data_received(self, data: bytes) -> None:
            self._heard = True
            super().data_received(data)

        def on_response_complete(self) -> None:
            self._since, self._heard = self.loop.time(), False
            super().on_response_complete()

        def pause_writing(self) -> None:
            self._unread = self.loop.time()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._unread = None
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
            self._refuse(431 if hint == 431 else 400, "the request's head is too long" if hint == 431 else "this is not HTTP")

        def is_waiting(self) -> bool:
            """Whether no request is running, though a head may be arriving."""
            return (self.cycle is None or self.cycle.response_complete) and self.conn.their_state is h11.IDLE

        def look(self, now: float) -> None:
            """Close it if the client has been silent for too long."""
            if self.transport.is_closing():
                self._closing = self._closing or now
                if now - self._closing > settings.request_seconds:
                    self.transport.abort()
            elif self._unread is not None and now - self._unread > settings.request_seconds:
                self.transport.abort()
            elif self.is_waiting():
                if now - self._since > settings.request_seconds:
                    if self._heard:
                        self._refuse(408, "the request's head arrives too slowly")
                    self.transport.close()
            elif self.cycle is not None and self.cycle.response_complete and now - self._since > REST_SECONDS:
                self.transport.abort()

        def _refuse(self, status: int, detail: str, remedy: str = "") -> None:
            """Answer with a problem, if still possible, and close."""
            body = bytes(problem(status, detail, remedy).body)
            fields = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close")]
            with suppress(h11.LocalProtocolError):
                if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    for event in (h11.Response(status_code=status, headers=fields), h11.Data(body), h11.EndOfMessage()):
                        self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Connection


def check_descriptors(settings: ServiceSettings) -> None:
    """Ensure that the process may open as many files at once as it needs.

    Raises:
        ConfigError: it may not, and cannot raise its limit.
    """
    import resource

    needed = settings.max_connections + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ConfigError(
                f"max_connections {settings.max_connections} needs {needed} open files, and this process may open {hard}",
                "raise the limit (ulimit -n, LimitNOFILE), or lower max_connections",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
