"""Clients that are slow, silent or many keep nobody else waiting; with a server that listens."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import uvicorn
from starlette.exceptions import HTTPException

from comel.errors import ConfigError
from service.access.keys import KeyStore
from service.http import connections, middleware
from service.http.connections import Server, check_descriptors, protocol_of
from service.http.middleware import BodyLimits
from service.settings import ServiceSettings
from tests.service.answers import bag_bytes
from tests.service.in_process import app_with

HEAD = b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Listening:
    """A server of its own thread, and clients that say what they like."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def each(self) -> list[Any]:
        """The connections, as the service sees them."""
        return list(self.server.server_state.connections)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=600)

    def ask(self, content: bytes = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") -> tuple[int, str, bytes]:
        """Status, media type and content of the first answer."""
        with self.connect() as connection:
            connection.sendall(content)
            return answer(connection)


def answer(connection: socket.socket) -> tuple[int, str, bytes]:
    """The answer that comes over a connection; (0, "", b"") where it is closed without one."""
    content = b""
    with suppress(ConnectionError):
        while b"\r\n\r\n" not in content:
            if not (block := connection.recv(1 << 16)):
                return 0, "", b""
            content += block
        head, _, body = content.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += connection.recv(1 << 16)
        return int(head.split()[1]), fields[b"content-type"].decode(), body
    return 0, "", b""


def is_problem(found: tuple[int, str, bytes], status: int) -> bool:
    assert found[:2] == (status, "application/problem+json"), found
    assert json.loads(found[2])["status"] == status
    return True


@contextmanager
def listening(settings: ServiceSettings, predictor: Any) -> Iterator[Listening]:
    app = app_with(settings, predictor)
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that the system keeps little that is not read
        door.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=protocol_of(settings), ws="none", log_config=None, access_log=False, timeout_keep_alive=10**6
        )
        server = Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield Listening(server, door.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(600)


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


@pytest.fixture
def patient(settings: ServiceSettings) -> ServiceSettings:
    """More patience than a test takes on any machine."""
    return settings.model_copy(update={"request_seconds": 6000.0})


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass for the service."""
    ahead = 0.0

    def now(_: Any = None) -> float:
        return time.monotonic() + ahead

    def let_pass(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(asyncio.BaseEventLoop, "time", now)
    monkeypatch.setattr(middleware, "time", SimpleNamespace(monotonic=now, perf_counter=time.perf_counter))
    return let_pass


def test_a_head_that_does_not_come_is_not_waited_for(
    patient: ServiceSettings, predictor: Any, later: Callable[[float], None]
) -> None:
    with listening(patient, predictor) as server:
        with server.connect() as slow, server.connect() as silent:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
            eventually(lambda: sorted(one._heard for one in server.each()) == [False, True])
            later(7000)
            assert is_problem(answer(slow), 408)
            assert silent.recv(1) == b""  # who said nothing is told nothing
        with server.connect() as third, suppress(OSError):
            while True:  # a byte now and then is no better
                third.sendall(b"a")
                later(1000)
                time.sleep(0.1)
        eventually(lambda: server.connections == 0)
        assert server.ask()[0] == 200


def test_a_connection_that_asks_again_and_again_is_kept(
    patient: ServiceSettings, predictor: Any, later: Callable[[float], None]
) -> None:
    with listening(patient, predictor) as server, server.connect() as connection:
        for _ in range(4):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer(connection)[0] == 200
            later(4000)
            time.sleep(1.2)  # the service looks once a second


@pytest.mark.parametrize("drips", [False, True])
def test_a_body_that_does_not_come_is_not_waited_for(
    drips: bool, patient: ServiceSettings, predictor: Any, later: Callable[[float], None]
) -> None:
    with listening(patient, predictor) as server, server.connect() as slow:
        slow.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        eventually(lambda: [one.is_waiting() for one in server.each()] == [False])
        over = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not over.wait(0.1):
                    later(1000)
                    slow.sendall(b" " * drips)

        dripping = threading.Thread(target=drip)
        dripping.start()
        found = answer(slow)
        over.set()
        dripping.join(600)
        assert is_problem(found, 408)


@pytest.mark.parametrize(("size", "status"), [(1 << 20, 200), (200, 408)])
def test_a_large_body_has_the_time_that_it_needs(size: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pieces, each of which lets the service wait for twenty seconds of a clock of the test's own."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 20.0
        return now

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(size), "more_body": now < 390}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    async def ask() -> int:
        scope = {"type": "http", "method": "PUT", "path": "/v1/uploads/x"}
        try:
            await BodyLimits(app, seconds=30.0)(scope, receive, receive)  # type: ignore[arg-type]
        except HTTPException as refusal:
            return refusal.status_code
        return 200

    monkeypatch.setattr(middleware, "time", SimpleNamespace(monotonic=clock))
    assert anyio.run(ask) == status


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(
    patient: ServiceSettings, predictor: Any, later: Callable[[float], None]
) -> None:
    KeyStore(patient.state_dir).add("viewer", "read")
    with listening(patient, predictor) as server, server.connect() as stranger:
        head = b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        stranger.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
        assert is_problem(answer(stranger), 401)
        later(2 * connections.REST_SECONDS)
        with suppress(OSError):
            for _ in range(600):
                stranger.sendall(b"a")
                time.sleep(0.1)
        eventually(lambda: server.connections == 0)


def test_an_answer_that_is_not_read_is_given_up(
    patient: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path, later: Callable[[float], None]
) -> None:
    with listening(patient, predictor) as server:
        with server.connect() as sender:
            content = bag_bytes(tmp_path, make_bag([0.1] * 50_000, columns=300))
            form = b'--x\r\nContent-Disposition: form-data; name="bag"; filename="a.h5"\r\n\r\n' + content + b"\r\n--x--\r\n"
            head = b"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            sender.sendall(head + f"Content-Length: {len(form)}\r\nPrefer: a\r\n\r\n".encode() + form)
            status, _, body = answer(sender)
            assert status in (201, 202), body
        place = "/openapi.json" if status == 202 else json.loads(body)["links"]["instances"]
        with ExitStack() as stack:
            for _ in range(5):
                reader = stack.enter_context(server.connect())
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.sendall(f"GET {place} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            eventually(lambda: sum(one._unread is not None for one in server.each()) == 5)
            later(7000)
            eventually(lambda: server.connections == 0)


def test_many_idle_connections_leave_room_for_who_asks(settings: ServiceSettings, predictor: Any) -> None:
    few = settings.model_copy(update={"max_connections": 50})
    with listening(few, predictor) as server, ExitStack() as stack:
        for number in range(300):
            idle = stack.enter_context(server.connect())
            if number % 2:
                with suppress(OSError):
                    idle.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3):
            assert server.ask()[0] == 200
        eventually(lambda: server.connections <= 50)


def test_where_every_connection_is_at_work_another_is_told_to_come_back(settings: ServiceSettings, predictor: Any) -> None:
    few = settings.model_copy(update={"max_connections": 2})
    with listening(few, predictor) as server, server.connect() as first, server.connect() as second:
        for busy in (first, second):
            busy.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        eventually(lambda: sum(not one.is_waiting() for one in server.each()) == 2)
        with server.connect() as third:
            assert is_problem(answer(third), 503)
        first.close()
        eventually(lambda: server.connections < 2)
        assert server.ask()[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x00\xa5 tls here\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 90_000, 431),
        (b"GET /" + b"a" * 200_000, 431),
    ],
    ids=["not HTTP", "no host", "a length below nothing", "a head without end", "a path without end"],
)
def test_what_is_no_request_gets_a_problem_too(sent: bytes, status: int, settings: ServiceSettings, predictor: Any) -> None:
    with listening(settings, predictor) as server, server.connect() as connection:
        with suppress(OSError):
            connection.sendall(sent)
        found = answer(connection)
        assert found[0] == 0 or is_problem(found, status)  # a head that is still being sent may meet a closed door
        assert server.ask()[0] == 200


def test_descriptors_are_looked_at_before_anything_listens(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, raised = (1024, 4096), []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, wanted: raised.append(wanted))
    check_descriptors(settings.model_copy(update={"max_connections": 700}))
    assert raised == []
    check_descriptors(settings.model_copy(update={"max_connections": 1000}))
    assert raised == [(1256, 4096)]
    with pytest.raises(ConfigError, match=r"5256 open files.*may open 4096.*ulimit -n.*max_connections"):
        check_descriptors(settings.model_copy(update={"max_connections": 5000}))
    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    check_descriptors(settings.model_copy(update={"max_connections": 5000}))
    limits = (1024, resource.RLIM_INFINITY)
    check_descriptors(settings.model_copy(update={"max_connections": 5000}))
    assert raised[-1] == (5256, resource.RLIM_INFINITY)
