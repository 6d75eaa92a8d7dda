"""Databases for tests: SQLite always, PostgreSQL where its server is on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.db.database import Database
from service.db.migrate import upgrade

_USER = "nobody"


def _server_program(name: str) -> str | None:
    found = shutil.which(name)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return found or (str(places[0]) if places else None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a private server without a database of ours; it listens on a socket in a folder of its own."""
    server, initialise = _server_program("postgres"), _server_program("initdb")
    pytest.importorskip("psycopg", reason="needs psycopg: pip install comel-mil[postgres]")
    if server is None or initialise is None:
        pytest.skip("needs a PostgreSQL server (postgres and initdb) on this machine")
    # A socket's path may have 107 bytes, which pytest's folders may exceed.
    folder = Path(f"/tmp/comel-postgres-{uuid.uuid4().hex[:8]}")
    folder.mkdir(mode=0o755)
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
        as_user = {"user": _USER, "group": "nogroup", "extra_groups": []}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    try:
        subprocess.run(
            [initialise, "-D", f"{folder}/data", "-U", "comel", "-A", "trust", "--no-sync"],
            check=True,
            timeout=600,
            **quiet,  # type: ignore[call-overload]
            **as_user,
        )
        settings = [f"unix_socket_directories={folder}", "listen_addresses=", "fsync=off"]
        options = [part for setting in settings for part in ("-c", setting)]
        running = subprocess.Popen([server, "-D", f"{folder}/data", *options], **quiet, **as_user)  # type: ignore[call-overload]
        try:
            url = f"postgresql+psycopg://comel@/postgres?host={folder}"
            _wait(url)
            yield url
        finally:
            running.terminate()
            running.wait(600)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(url: str) -> None:
    import psycopg

    deadline = time.monotonic() + 600
    while True:
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "the PostgreSQL server does not start"
            time.sleep(0.1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of either kind."""
    return _empty(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def other_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a second empty database of either kind."""
    return _empty(request, tmp_path)


def _empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"t{uuid.uuid4().hex}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / name}.db"
    import psycopg

    server = request.getfixturevalue("postgres")
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server).replace("/postgres?", f"/{name}?")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An empty database of either kind, with its tables."""
    opened = Database(url)
    upgrade(opened)
    yield opened
    opened.close()
