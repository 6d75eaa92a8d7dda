"""What is removed by itself, what never is, and that the audit log has it."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, update

from service.access.audit import AuditLog
from service.backend import Backend
from service.db.database import WrongDatabase
from service.db.tables import Delivery, IdempotencyKey, Installation, Job, PredictionRow, Upload
from service.errors import NotReadyError
from service.housekeeping import clean
from service.jobs.queue import NewJob
from service.settings import JobSettings, ServiceSettings
from service.webhooks.outbox import Outbox

NOTHING = {"predictions": 0, "uploads": 0, "jobs": 0, "left_behind": 0, "adopted": 0, "set_aside": 0}


@pytest.fixture
def backend(client: TestClient) -> Backend:
    found: Backend = client.app.state.backend  # type: ignore[attr-defined]
    return found


@pytest.fixture
def audit(client: TestClient) -> AuditLog:
    found: AuditLog = client.app.state.audit  # type: ignore[attr-defined]
    return found


def lines(audit: AuditLog, action: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in audit.path.read_text().splitlines()]
    return [line for line in found if line["action"] == action]


def forget(backend: Backend) -> None:
    """As a database of another time: it has none of the rows."""
    with backend.database.writing() as session:
        for table in (PredictionRow, Upload, Job, IdempotencyKey):
            session.execute(delete(table))


def test_what_the_database_does_not_know_is_never_removed(
    client: TestClient, backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    made = send(make_bag([0.1, 0.9])).json()["id"]
    upload = client.post("/v1/uploads", json={"filename": "a.svs", "size": 9}).json()["id"]
    waiting = settings.state_dir / "inbox" / ("2" * 32)
    waiting.mkdir(parents=True)
    (waiting / "a.h5").write_bytes(b"x")
    (settings.state_dir / "predictions" / "lost+found").mkdir()
    before = client.get(f"/v1/predictions/{made}").json()
    forget(backend)
    assert clean(backend.database, settings, audit) == NOTHING  # it may be being made
    done = clean(backend.database, settings, audit, left_behind_seconds=-1)
    assert done == NOTHING | {"adopted": 1, "set_aside": 2}
    assert client.get(f"/v1/predictions/{made}").json()["prediction"] == before["prediction"]
    assert (settings.state_dir / "set-aside" / "uploads" / upload / "a.svs").is_file()
    assert (settings.state_dir / "set-aside" / "inbox" / ("2" * 32) / "a.h5").is_file()
    assert (settings.state_dir / "predictions" / "lost+found").is_dir()
    assert [line["prediction"] for line in lines(audit, "adopt")] == [made]
    assert {line["place"] for line in lines(audit, "set-aside")} == {"uploads", "inbox"}
    assert clean(backend.database, settings, audit, left_behind_seconds=-1) == NOTHING


@pytest.mark.parametrize("name", ["prediction.json", "instances.npz"])
def test_a_damaged_prediction_that_no_row_names_is_set_aside(
    name: str, backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    made = send(make_bag([0.1])).json()["id"]
    (settings.state_dir / "predictions" / made / name).write_text("[")
    forget(backend)
    for _ in range(2):  # the second time one of this name is there already
        assert clean(backend.database, settings, audit, left_behind_seconds=-1)["set_aside"] == 1
        shutil.copytree(settings.state_dir / "set-aside" / "predictions" / made, settings.state_dir / "predictions" / made)
    assert len(list((settings.state_dir / "set-aside" / "predictions").iterdir())) == 2


def test_a_prediction_without_its_origin_is_taken_in_as_far_as_it_says(
    client: TestClient, backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    """As an earlier version of comel wrote them, and as somebody may write one."""
    contents = ["", "[]", '{"model": 7, "source": [], "key": {}}', '{"model": "' + "m" * 500 + '", "key": "' + "k" * 500 + '"}']
    made = [send(make_bag([0.9])).json()["id"] for _ in contents]
    for identifier, content in zip(made, contents, strict=True):
        (settings.state_dir / "predictions" / identifier / "origin.json").write_text(content)
    forget(backend)
    assert clean(backend.database, settings, audit, left_behind_seconds=-1)["adopted"] == len(made)
    assert {entry["id"] for entry in client.get("/v1/predictions").json()["items"]} == set(made)


def test_another_database_removes_nothing(
    backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    made = send(make_bag([0.1])).json()["id"]
    with backend.database.writing() as session:
        session.execute(update(PredictionRow).values(created=1.0))
        session.execute(update(Installation).values(id="3" * 32))
    with pytest.raises(WrongDatabase):
        clean(backend.database, settings.model_copy(update={"keep_days": 1.0}), audit, left_behind_seconds=-1)
    assert (settings.state_dir / "predictions" / made / "bag.h5").is_file()


def test_nothing_is_removed_that_the_audit_log_cannot_have(
    client: TestClient, backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    made = send(make_bag([0.1])).json()["links"]["self"]
    upload = client.post("/v1/uploads", json={"filename": "a", "size": 9}).json()["id"]
    with backend.database.writing() as session:
        session.execute(update(PredictionRow).values(created=1.0))
        session.execute(update(Upload).values(expires=1.0))
    kept = audit.path.rename(audit.path.with_suffix(".kept"))
    audit.path.mkdir()
    for _ in range(2):
        with pytest.raises(NotReadyError, match="audit log"):
            clean(backend.database, settings.model_copy(update={"keep_days": 1.0}), audit, left_behind_seconds=-1)
    with pytest.raises(NotReadyError, match="audit log"):
        clean(backend.database, settings, audit, left_behind_seconds=-1)
    assert client.delete(made).status_code == 503
    assert (settings.state_dir / "uploads" / upload / "a.bin").is_file()
    audit.path.rmdir()
    kept.rename(audit.path)
    assert client.get(made).status_code == 200
    done = clean(backend.database, settings.model_copy(update={"keep_days": 1.0}), audit)
    assert (done["predictions"], done["uploads"]) == (1, 1)


def test_a_deletion_that_was_cut_short_is_finished_and_never_undone(
    client: TestClient, backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    """Killed after the folder had its other name, before the row was gone."""
    made = send(make_bag([0.1])).json()["id"]
    folder = settings.state_dir / "predictions"
    (folder / made).rename(folder / f".removed-{made}.{'0' * 32}")
    assert client.get(f"/v1/predictions/{made}").status_code == 404
    assert clean(backend.database, settings, audit, left_behind_seconds=-1) == NOTHING | {"left_behind": 1}
    assert client.get("/v1/predictions").json()["items"] == []
    assert list(folder.iterdir()) == []
    assert [line["by"] for line in lines(audit, "delete")] == ["begun before"]


def test_what_a_job_that_came_to_nothing_left_goes(
    backend: Backend, audit: AuditLog, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(backend.queue), "claim", lambda *_, **__: None)
    jobs = {}
    for state in ("failed", "cancelled", "queued"):
        jobs[state] = backend.queue.submit(NewJob("bag", {"bag": "a.h5"}, {}, "breast", 4, "s")).id
        with backend.database.writing() as session:
            session.execute(update(Job).where(Job.id == jobs[state]).values(state=state))
        for place in ("inbox", "predictions"):
            (settings.state_dir / place / jobs[state]).mkdir(parents=True)
    assert clean(backend.database, settings, audit, left_behind_seconds=-1) == NOTHING | {"left_behind": 4}
    for place in ("inbox", "predictions"):
        assert [path.name for path in (settings.state_dir / place).iterdir()] == [jobs["queued"]]


def test_times_of_before_the_clock_was_set_back_pass_all_the_same(
    client: TestClient, backend: Backend, audit: AuditLog, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    """Written when the clock was a year ahead; without this they would stay for that year."""
    made = send(make_bag([0.1])).json()["id"]
    upload = client.post("/v1/uploads", json={"filename": "a", "size": 9}).json()["id"]
    ahead = time.time() + 365 * 86_400
    with backend.database.writing() as session:
        session.execute(update(PredictionRow).values(created=ahead))
        session.execute(update(Upload).values(created=ahead, expires=ahead + 86_400))
        session.add(IdempotencyKey(owner="", key="k", digest="d", kind="job", made=made, created=ahead))
        job = backend.queue.submit(NewJob("bag", {"bag": "a"}, {}, "breast", 4, "s"), session)
        job.state, job.finished = "done", ahead
    (settings.state_dir / "predictions" / ".partial-x").mkdir()
    os.utime(settings.state_dir / "predictions" / ".partial-x", (ahead, ahead))
    assert clean(backend.database, settings, audit) == NOTHING | {"left_behind": 1}
    soon = time.time() + 60
    with backend.database.reading() as session:
        assert session.get_one(Upload, upload).expires < soon + settings.upload_hours * 3600
        assert session.get_one(PredictionRow, made).created < soon
        assert session.execute(select(IdempotencyKey.created)).scalar_one() < soon
        assert (session.get_one(Job, job.id).finished or 0) < soon
    assert client.get(f"/v1/uploads/{upload}").status_code == 200  # it is not lost for that


def test_a_webhook_of_before_the_clock_was_set_back_is_sent(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    job = backend.queue.submit(NewJob("bag", {"bag": "a"}, {}, "breast", 4, "s"))
    with backend.database.writing() as session:
        session.add(Delivery(job=job.id, state="due", attempts=1, due=time.time() + 86_400))
    outbox = Outbox(backend.database, JobSettings(), log=backend._log)
    called: list[str] = []

    def call(due: Any) -> tuple[bool, str]:
        called.append(due.id)
        return True, "status 200"

    monkeypatch.setattr(outbox, "_call", call)
    assert outbox.send_one()
    assert called == [job.id]


def test_old_jobs_go_and_the_log_says_how_many(backend: Backend, audit: AuditLog, settings: ServiceSettings) -> None:
    with backend.database.writing() as session:
        for _ in range(3):
            job = backend.queue.submit(NewJob("bag", {"bag": "a"}, {}, "breast", 4, "s"), session)
            job.state, job.finished = "done", 1.0
    keep = settings.model_copy(update={"keep_days": 1.0})
    assert clean(backend.database, keep, audit)["jobs"] == 3
    assert clean(backend.database, keep, audit)["jobs"] == 0
    assert [(line["jobs"], line["by"]) for line in lines(audit, "delete")] == [(3, "keep_days")]


def test_what_others_may_read_is_not_left_in_the_folder_of_uploads(client: TestClient, settings: ServiceSettings) -> None:
    """A bag that was being received when the process was killed has a name that the clean-up knows."""
    names: list[str] = []

    def seen(path: Path) -> int:
        names.extend(one.name for one in (settings.state_dir / "uploads").iterdir())
        raise NotReadyError("stop here")

    client.app.state.backend.submissions._inspector.instances = seen  # type: ignore[attr-defined]
    assert client.post("/v1/predictions", files={"bag": ("a.h5", b"\x89HDF\r\n\x1a\n")}).status_code == 503
    assert [name.startswith(".partial-") for name in names] == [True]
