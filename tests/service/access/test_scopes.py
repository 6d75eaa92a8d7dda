"""A key deletes and cancels what it made; what others made needs a scope of its own; quotas count what arrived."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.access.keys import SCOPES, KeyStore
from service.db.tables import PredictionRow
from service.jobs.queue import JobQueue
from service.settings import ServiceSettings
from tests.service.answers import bag_bytes
from tests.service.in_process import app_with

NAMES = {"first": "predict", "second": "predict", "reader": "read", "manager": "manage", "boss": "admin"}


@pytest.fixture
def content(make_bag: Any, tmp_path: Path) -> bytes:
    return bag_bytes(tmp_path, make_bag([0.1, 0.9]))


@pytest.fixture
def keys(settings: ServiceSettings) -> dict[str, dict[str, str]]:
    """The header of each key, by its name."""
    store = KeyStore(settings.state_dir)
    return {name: {"X-API-Key": store.add(name, scope)} for name, scope in NAMES.items()}


@pytest.fixture
def client(keys: Any, settings: ServiceSettings, predictor: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(JobQueue, "claim", lambda self, owner, given_up: None)  # jobs stay as they are
    with TestClient(app_with(settings, predictor)) as opened:
        yield opened


def refused(answer: Any) -> bool:
    """Whether it was refused as another key's, in the words of bearer tokens too."""
    assert answer.status_code == 403, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert 'error="insufficient_scope", scope="manage"' in answer.headers["www-authenticate"]
    return "another key made this" in answer.json()["detail"]


def test_manage_stands_between_predict_and_admin() -> None:
    assert SCOPES == ("read", "predict", "manage", "admin")


@pytest.mark.parametrize("who", ["first", "manager", "boss"])
def test_a_prediction_is_deleted_by_the_key_that_made_it_or_by_a_manager(
    who: str, client: TestClient, keys: dict[str, dict[str, str]], content: bytes
) -> None:
    made = client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers=keys["first"]).json()["links"]["self"]
    assert refused(client.delete(made, headers=keys["second"]))
    assert client.delete(made, headers=keys["reader"]).status_code == 403
    assert client.get(made, headers=keys["second"]).status_code == 200
    assert client.delete(made, headers=keys[who]).status_code == 204
    assert client.delete(made, headers=keys[who]).status_code == 404


@pytest.mark.parametrize("who", ["first", "manager", "boss"])
def test_a_job_is_cancelled_by_the_key_that_asked_for_it_or_by_a_manager(
    who: str, client: TestClient, keys: dict[str, dict[str, str]], content: bytes
) -> None:
    asked = {**keys["first"], "Prefer": "respond-async"}
    job = client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers=asked).json()["links"]
    assert refused(client.post(job["cancel"], headers=keys["second"]))
    assert client.get(job["self"], headers=keys["second"]).json()["state"] == "queued"
    assert client.post(job["cancel"], headers=keys[who]).json()["state"] == "cancelled"


@pytest.mark.parametrize("who", ["first", "manager", "boss"])
def test_an_upload_is_sent_and_deleted_by_the_key_that_began_it_or_by_a_manager(
    who: str, client: TestClient, keys: dict[str, dict[str, str]], content: bytes
) -> None:
    begun = client.post("/v1/uploads", json={"filename": "a.h5", "size": len(content)}, headers=keys["first"]).json()
    place = f"/v1/uploads/{begun['id']}"
    assert refused(client.put(place, params={"offset": 0}, content=content, headers=keys["second"]))
    assert client.get(place, headers=keys["second"]).json()["offset"] == 0
    assert client.put(place, params={"offset": 0}, content=content, headers=keys[who]).json()["complete"]
    assert refused(client.delete(place, headers=keys["second"]))
    assert client.delete(place, headers=keys[who]).status_code == 204


def test_what_nobodys_key_made_needs_a_manager(client: TestClient, keys: dict[str, dict[str, str]], content: bytes) -> None:
    """Made before there were keys, or in an earlier version, which did not write down whose it was."""
    made = client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers=keys["first"]).json()["links"]["self"]
    with client.app.state.backend.database.writing() as session:  # type: ignore[attr-defined]
        session.execute(update(PredictionRow).values(key=None))
    assert refused(client.delete(made, headers=keys["first"]))
    assert client.delete(made, headers=keys["manager"]).status_code == 204


def test_an_open_service_lets_everyone_delete(settings: ServiceSettings, predictor: Any, content: bytes) -> None:
    with TestClient(app_with(settings, predictor)) as client:
        made = client.post("/v1/predictions", files={"bag": ("a.h5", content)}).json()["links"]["self"]
        assert client.delete(made).status_code == 204


def test_refusals_are_in_the_audit_log(
    client: TestClient, keys: dict[str, dict[str, str]], content: bytes, settings: ServiceSettings
) -> None:
    made = client.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers=keys["first"]).json()["id"]
    (settings.state_dir / "audit.jsonl").unlink()
    client.delete(f"/v1/predictions/{made}", headers=keys["second"])
    client.delete(f"/v1/predictions/{made}", headers=keys["reader"])
    for _ in range(40):
        client.get("/v1/models", headers={"X-API-Key": "comel_stranger"})
    lines = [json.loads(line) for line in (settings.state_dir / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["key"], line["outcome"]) for line in lines[:2]] == [
        ("delete", "second", "refused"),
        ("refuse", "reader", "refused"),
    ]
    assert (lines[1]["status"], lines[1]["route"], lines[1]["method"]) == (403, "/v1/predictions/{identifier}", "DELETE")
    strangers = [line for line in lines if line.get("status") == 401]
    assert 1 <= len(strangers) <= 15  # not a line for each: nobody without a key fills the disk
    assert strangers[0]["key"] is None


def test_a_key_that_uses_up_its_quota_leaves_the_others_theirs(
    keys: dict[str, dict[str, str]], settings: ServiceSettings, predictor: Any, content: bytes
) -> None:
    size = len(content)
    limited = settings.model_copy(update={"max_key_bytes": 6 * size})
    with TestClient(app_with(limited, predictor)) as client:
        files = {"bag": ("a.h5", content)}

        def begin(who: str, bytes_: int) -> Any:
            return client.post("/v1/uploads", json={"filename": "a", "size": bytes_}, headers=keys[who])

        # What is announced counts for nothing, however often.
        places = [f"/v1/uploads/{begin('first', 5 * size).json()['id']}" for _ in range(5)]
        assert client.post("/v1/predictions", files=files, headers=keys["first"]).status_code == 201
        first = client.put(places[0], params={"offset": 0}, content=bytes(3 * size), headers=keys["first"])
        assert first.status_code == 200
        full = client.put(places[1], params={"offset": 0}, content=bytes(3 * size), headers=keys["first"])
        assert (full.status_code, "quota of this key" in full.json()["detail"]) == (413, True)
        assert client.get(places[1], headers=keys["first"]).json()["offset"] == 0
        assert begin("first", 6 * size).status_code == 413  # could never be sent
        client.put(places[2], params={"offset": 0}, content=bytes(size), headers=keys["first"])
        for more in ({}, {"Prefer": "respond-async"}):
            again = client.post("/v1/predictions", files=files, headers=keys["first"] | more)
            assert (again.status_code, "quota" in again.json()["detail"]) == (413, True)
        assert client.post("/v1/predictions", files=files, headers=keys["second"]).status_code == 201
        assert client.delete(places[0], headers=keys["first"]).status_code == 204
        assert client.post("/v1/predictions", files=files, headers=keys["first"]).status_code == 201


def test_the_bags_of_jobs_that_wait_count_too(
    client: TestClient, keys: dict[str, dict[str, str]], settings: ServiceSettings, predictor: Any, content: bytes
) -> None:
    limited = settings.model_copy(update={"max_key_bytes": 2 * len(content) + 1})
    with TestClient(app_with(limited, predictor)) as small:
        asked = {**keys["first"], "Prefer": "respond-async"}
        answers = [small.post("/v1/predictions", files={"bag": ("a.h5", content)}, headers=asked) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 413]


def test_uploads_that_are_begun_and_left_are_counted(
    keys: dict[str, dict[str, str]], settings: ServiceSettings, predictor: Any
) -> None:
    limited = settings.model_copy(update={"max_key_uploads": 3})
    with TestClient(app_with(limited, predictor)) as client:
        begun = [client.post("/v1/uploads", json={"filename": "a", "size": 9}, headers=keys["first"]) for _ in range(4)]
        assert [answer.status_code for answer in begun] == [201, 201, 201, 429]
        assert "complete or delete" in begun[-1].json()["remedy"]
        other = client.post("/v1/uploads", json={"filename": "a", "size": 9}, headers=keys["second"])
        assert other.status_code == 201
