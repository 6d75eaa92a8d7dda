"""The disk of the state folder is full: refusals in the same words everywhere, and deleting works."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from typer.testing import CliRunner

from comel.app.commands import keys as commands
from comel.errors import ConfigError
from service.access.keys import KeyStore
from service.backend import open_database
from service.db.database import Database
from service.errors import NoRoomError
from service.housekeeping import clean
from service.intake import bodies
from service.predictions import folder as prediction_folder
from service.settings import ServiceSettings
from tests.service.answers import bag_bytes, ended
from tests.service.in_process import app_with

NO_ROOM = "there is no room on the service's disk"


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_room(answer: Any) -> bool:
    assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json"), answer.text
    return bool(answer.json()["detail"] == NO_ROOM)


@pytest.fixture
def content(make_bag: Any, tmp_path: Path) -> bytes:
    return bag_bytes(tmp_path, make_bag([0.1, 0.9]))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A state folder on a file system of its own of 16 MiB."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(state)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield state
    finally:
        subprocess.run(["umount", "-l", str(state)], check=False)


def fill(disk: Path) -> None:
    with open(disk / "fill", "ab", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 65536):
            pass


def test_everything_goes_on_that_needs_no_room(disk: Path, settings: ServiceSettings, predictor: Any, content: bytes) -> None:
    small = settings.model_copy(update={"max_upload_bytes": 4 << 20})
    with TestClient(app_with(small, predictor)) as client:
        clean(client.app.state.backend.database, small, client.app.state.audit)  # type: ignore[attr-defined]
        files = {"bag": ("a.h5", content)}
        first, second = (client.post("/v1/predictions", files=files).json()["links"] for _ in range(2))
        upload = f"/v1/uploads/{client.post('/v1/uploads', json={'filename': 'a', 'size': 1 << 20}).json()['id']}"
        fill(disk)
        large = {"bag": ("a.h5", content + bytes(2 << 20))}
        for _ in range(2):
            assert no_room(client.post("/v1/predictions", files=files))
            assert no_room(client.post("/v1/predictions", files=large))
            assert no_room(client.post("/v1/predictions", files=files, headers={"Prefer": "respond-async"}))
            assert no_room(client.post("/v1/uploads", json={"filename": "a", "size": 1 << 20}))
            assert no_room(client.put(upload, params={"offset": 0}, content=bytes(1 << 20)))
        assert client.get(upload).json()["offset"] == 0
        drawn = client.get(first["map"])
        assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
        for name, link in first.items():
            assert client.get(link).status_code == 200, name
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert client.delete(second["self"]).status_code == 204
        assert client.get(second["self"]).status_code == 404
        assert client.delete(upload).status_code == 204
        (disk / "fill").unlink()
        assert client.post("/v1/predictions", files=files).status_code == 201
        clean(client.app.state.backend.database, small, client.app.state.audit)  # type: ignore[attr-defined]
        assert (disk / "reserve").stat().st_size == 1 << 20
    lines = [json.loads(line) for line in (disk / "audit.jsonl").read_text().splitlines()]  # each is whole
    deleted = [(line["outcome"], line.get("prediction"), line.get("upload")) for line in lines if line["action"] == "delete"]
    assert deleted == [("done", second["self"].rpartition("/")[2], None), ("done", None, upload.rpartition("/")[2])]
    made = [line["prediction"] for line in lines if line["action"] == "predict" and line["outcome"] == "done"]
    kept = {path.name for path in (disk / "predictions").iterdir()}
    assert kept <= set(made)  # nothing is there that the log does not have


def test_a_disk_that_was_full_before_the_service_starts_is_said(disk: Path, settings: ServiceSettings, predictor: Any) -> None:
    fill(disk)
    with pytest.raises((ConfigError, NoRoomError)), TestClient(app_with(settings, predictor)):
        pass
    with pytest.raises(ConfigError):
        open_database(settings)


def test_keys_are_not_added_that_cannot_be_written_down(disk: Path) -> None:
    assert CliRunner().invoke(commands.app, ["add", "a", "--scope", "read", "--state", str(disk)]).exit_code == 0
    fill(disk)
    said = CliRunner().invoke(commands.app, ["add", "b", "--scope", "read", "--state", str(disk)])
    assert isinstance(said.exception, (NoRoomError, OSError))
    assert [key.name for key in KeyStore(disk).active()] == ["a"]


def keep_less(database: Database) -> None:
    """Let SQLite believe that its disk is full: it may not have a page more."""

    @event.listens_for(database.engine, "begin")
    def begun(connection: Any) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_full_database_is_said_in_the_same_words(client: TestClient, content: bytes) -> None:
    backend = client.app.state.backend  # type: ignore[attr-defined]
    for thread in backend._others:
        thread.stop()
        thread.join(600)
    keep_less(backend.database)
    answers = []
    for number in range(200):
        answers.append(client.post("/v1/uploads", json={"filename": f"{number}" * 100, "size": 9}))
        if answers[-1].status_code != 201:
            break
    assert no_room(answers[-1])
    assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("where", "name"),
    [(bodies, "_save"), (np, "savez"), (prediction_folder, "_flush"), (prediction_folder, "write_json"), (os, "fsync"),
     (shutil, "copyfileobj"), (os, "link"), (Path, "mkdir")],
)  # fmt: skip
def test_whatever_write_fails_it_is_said_and_nothing_is_left(
    where: Any, name: str, client: TestClient, content: bytes, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/predictions", files={"bag": ("a.h5", content)})
    kept = sorted((settings.state_dir / "predictions").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(where, name, full)
        answers = [client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers={"Idempotency-Key": "k"})]
        if name != "link":  # of which a copy is made instead
            assert all(no_room(answer) for answer in answers)
    if name != "link":
        assert sorted((settings.state_dir / "predictions").iterdir()) == kept
    assert list((settings.state_dir / "uploads").iterdir()) == []
    again = client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers={"Idempotency-Key": "k"})
    assert again.status_code == 201, again.text


def test_a_job_whose_prediction_does_not_fit_fails_in_the_same_words(
    client: TestClient, content: bytes, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "savez", full)
    asked = client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers={"Prefer": "respond-async"})
    job = ended(client, asked)
    assert (job["state"], job["error"]["what"]) == ("failed", NO_ROOM)
    assert list((settings.state_dir / "inbox").iterdir()) == []


def test_a_job_that_the_audit_log_cannot_have_gives_no_prediction(
    client: TestClient, content: bytes, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = client.app.state.audit  # type: ignore[attr-defined]
    record: Callable[..., None] = audit.record

    def some(action: str, **facts: Any) -> None:
        if facts["outcome"] == "done":
            raise NoRoomError
        record(action, **facts)

    monkeypatch.setattr(audit, "record", some)
    job = ended(client, client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers={"Prefer": "respond-async"}))
    assert (job["state"], job["error"]["what"]) == ("failed", NO_ROOM)
    assert list((settings.state_dir / "predictions").iterdir()) == []
    assert client.get(f"/v1/predictions/{job['id']}").status_code in (404, 507)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_map_that_cannot_be_kept_is_drawn_all_the_same(
    code: int, client: TestClient, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = client.post("/v1/predictions", files={"bag": ("a.h5", content)}).json()["links"]

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("service.predictions.store.atomic_path", refuse)
    assert client.get(links["map"]).status_code == 200
