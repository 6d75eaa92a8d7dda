"""Uploads in parts, webhooks, idempotency keys, cancelling and the clean-up, through the API and by themselves."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import h5py
import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import update

from comel.errors import ComelError
from service.backend import Backend, open_database
from service.db.tables import Delivery, IdempotencyKey, Job, PredictionRow, Upload
from service.errors import ConflictError
from service.housekeeping import clean
from service.intake import uploads
from service.intake.uploads import UploadStore
from service.jobs.queue import JobQueue
from service.jobs.sources import Inbox
from service.settings import JobSettings, ServiceSettings
from service.webhooks import outbox
from service.webhooks.addresses import check_url, resolve
from service.webhooks.outbox import Outbox, wait_before
from service.webhooks.signature import sign, verify
from tests.service.answers import bag_bytes, ended, place_of
from tests.service.in_process import app_with


def backend_of(client: TestClient) -> Backend:
    backend: Backend = client.app.state.backend  # type: ignore[attr-defined]
    return backend


def upload(client: TestClient, content: bytes, **more: Any) -> Any:
    """Begin an upload and send all of it."""
    begun = client.post("/v1/uploads", json={"filename": "a/b c.h5", "size": len(content), **more})
    assert begun.status_code == 201, begun.text
    return client.put(place_of(begun), params={"offset": 0}, content=content)


def test_an_upload_goes_on_after_a_break(client: TestClient, make_bag: Any, tmp_path: Path) -> None:
    content = bag_bytes(tmp_path, make_bag([0.1, 0.9]))
    digest = hashlib.sha256(content).hexdigest()
    begun = client.post("/v1/uploads", json={"filename": "../b c.h5", "size": len(content), "sha256": digest}).json()
    place = f"/v1/uploads/{begun['id']}"
    assert (begun["filename"], begun["offset"], begun["complete"]) == ("b_c.h5", 0, False)
    assert client.put(place, params={"offset": 0}, content=content[:100]).json()["offset"] == 100
    again = client.put(place, params={"offset": 0}, content=content[:100])
    assert (again.status_code, again.headers["upload-offset"]) == (409, "100")
    assert client.put(place, params={"offset": 100}, content=content[100:] + b"x").status_code == 413
    early = client.post("/v1/predictions", json={"upload": begun["id"]})
    assert (early.status_code, "offset 100" in early.json()["remedy"]) == (409, True)
    done = client.put(place, params={"offset": client.get(place).json()["offset"]}, content=content[100:]).json()
    assert (done["complete"], done["kind"], done["slide"]) == (True, "bag", None)
    job = ended(client, client.post("/v1/predictions", json={"upload": begun["id"]}))
    assert job["state"] == "done", job
    assert client.get(f"{job['links']['prediction']}/bag.h5").content == content
    assert client.delete(place).status_code == 204
    assert client.get(place).status_code == 404
    assert client.get(job["links"]["prediction"]).status_code == 200


@pytest.mark.parametrize(
    ("content", "more", "status"),
    [
        (b"neither" * 100, {}, 415),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), {}, 422),
        (b"II*\x00" + bytes(300), {}, 415),
        (b"x", {"sha256": "0" * 64}, 422),
    ],
)
def test_a_whole_upload_that_is_nothing_is_removed(
    client: TestClient, settings: ServiceSettings, content: bytes, more: Any, status: int
) -> None:
    answer = upload(client, content, **more)
    assert answer.status_code == status, answer.text
    assert str(settings.state_dir) not in answer.text
    assert client.get(answer.request.url.path).status_code == 404
    assert list((settings.state_dir / "uploads").iterdir()) == []


def test_what_there_is_no_room_for_is_refused(settings: ServiceSettings, predictor: Any) -> None:
    small = settings.model_copy(update={"max_state_bytes": 1000, "max_slide_bytes": 2000})
    with TestClient(app_with(small, predictor)) as client:
        first, second = (client.post("/v1/uploads", json={"filename": "a", "size": 900}).json()["id"] for _ in range(2))
        assert client.put(f"/v1/uploads/{first}", params={"offset": 0}, content=bytes(800)).status_code == 200
        refused = client.put(f"/v1/uploads/{second}", params={"offset": 0}, content=bytes(300))
        assert (refused.status_code, "quota" in refused.json()["detail"]) == (413, True)
        assert client.get(f"/v1/uploads/{second}").json()["offset"] == 0
        assert client.put(f"/v1/uploads/{second}", params={"offset": 0}, content=bytes(100)).status_code == 200
        assert client.post("/v1/uploads", json={"filename": "a", "size": 2001}).status_code == 413
        assert "quota" in client.post("/v1/uploads", json={"filename": "a", "size": 101}).json()["detail"]


def test_the_same_request_again_leads_to_the_same_result(client: TestClient, make_bag: Any, tmp_path: Path) -> None:
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1, 0.9])))}
    other = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.2, 0.9])))}
    for extra in ({}, {"Prefer": "respond-async"}):
        headers = {"Idempotency-Key": f"key-{len(extra)}", **extra}
        first, again = (client.post("/v1/predictions", files=files, headers=headers) for _ in range(2))
        assert first.status_code == again.status_code == (202 if extra else 201)
        assert first.json()["id"] == again.json()["id"]
        assert client.post("/v1/predictions", files=other, headers=headers).status_code == 409
    assert client.post("/v1/predictions", files={"bag": ("a.h5", b"x")}, headers={"Idempotency-Key": "k"}).status_code == 415
    assert client.post("/v1/predictions", files=files, headers={"Idempotency-Key": "k"}).status_code == 201


def test_a_bag_of_another_name_is_another_request(client: TestClient, tmp_path: Path) -> None:
    """A bag that does not say which slide it is of is called by its file's name."""
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["features"] = np.zeros((6, 8), np.float32)
    content = (tmp_path / "plain.h5").read_bytes()
    headers, fields = {"Idempotency-Key": "order-9"}, {"assume_encoder": "fake-encoder"}

    def ask(name: str) -> Any:
        return client.post("/v1/predictions", files={"bag": (name, content)}, data=fields, headers=headers)

    assert ask("patient-a.h5").json()["prediction"]["slide_id"] == "patient-a"
    assert ask("patient-b.h5").status_code == 409
    assert ask("patient-a.h5").json()["prediction"]["slide_id"] == "patient-a"


def test_of_two_services_at_one_offset_one_receives_the_part(settings: ServiceSettings) -> None:
    """Both have the upload's file open; the bytes of the one must not land among those of the other."""
    database = open_database(settings)
    first, second = (UploadStore(database, settings, lambda path: "bag") for _ in range(2))
    identifier = first.create("a.h5", 8, None, None).id

    async def talk() -> None:
        arrived, go_on = anyio.Event(), anyio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"12"
            arrived.set()
            await go_on.wait()
            yield b"34"

        async def quick() -> AsyncIterator[bytes]:
            yield b"abcd"

        async with anyio.create_task_group() as group:

            async def receive() -> None:
                assert (await first.append(identifier, 0, slow())).offset == 4

            group.start_soon(receive)
            await arrived.wait()
            with pytest.raises(ConflictError, match="another part") as busy:
                await second.append(identifier, 0, quick())
            assert busy.value.offset == 0
            go_on.set()
        with pytest.raises(ConflictError, match="begins at 4"):
            await second.append(identifier, 0, quick())
        assert (await second.append(identifier, 4, quick())).kind == "bag"

    anyio.run(talk)
    assert first.path(first.get(identifier)).read_bytes() == b"1234abcd"
    database.close()


def test_what_broke_off_takes_no_room(settings: ServiceSettings) -> None:
    database = open_database(settings)
    store = UploadStore(database, settings, lambda path: "bag")
    upload = store.create("a.h5", 1 << 20, None, None)

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(1 << 19)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        anyio.run(store.append, upload.id, 0, broken())
    assert store.path(upload).stat().st_size == 0
    database.close()


def test_a_key_whose_prediction_is_gone_may_be_used_again(client: TestClient, make_bag: Any, tmp_path: Path) -> None:
    """Deleted by somebody, or never made since the process ended in the middle of it."""
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1, 0.9])))}
    headers = {"Idempotency-Key": "order-7"}
    first = client.post("/v1/predictions", files=files, headers=headers).json()["id"]
    assert client.delete(f"/v1/predictions/{first}").status_code == 204
    second = client.post("/v1/predictions", files=files, headers=headers)
    assert second.status_code == 201
    assert second.json()["id"] != first
    with backend_of(client).database.writing() as session:
        session.execute(update(IdempotencyKey).values(made="0" * 32))
    assert client.post("/v1/predictions", files=files, headers=headers).status_code == 201


def test_the_first_of_two_that_come_together_makes_the_prediction(
    client: TestClient, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    predictor.go_on.clear()
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1, 0.9])))}
    headers = {"Idempotency-Key": "order-8"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/predictions", files=files, headers=headers)
        assert predictor.started.wait(600)
        assert client.post("/v1/predictions", files=files, headers=headers).status_code == 409
        predictor.go_on.set()
        made = first.result()
    assert made.status_code == 201
    assert client.post("/v1/predictions", files=files, headers=headers).json()["id"] == made.json()["id"]


def test_what_is_announced_takes_no_room_from_others(
    settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    """Nobody's prediction goes because somebody says that a large file will come."""
    small = settings.model_copy(update={"max_state_bytes": 200_000})
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1] * 200)))}
    with TestClient(app_with(small, predictor)) as client:
        made = client.post("/v1/predictions", files=files).json()["id"]
        for _ in range(3):
            place = place_of(client.post("/v1/uploads", json={"filename": "a", "size": 199_000}))
        audit = client.app.state.audit  # type: ignore[attr-defined]
        assert not any(clean(backend_of(client).database, small, audit).values())
        assert client.get(f"/v1/predictions/{made}").status_code == 200
        # What has arrived does: predictions make room for it.
        assert client.put(place, params={"offset": 0}, content=bytes(198_000)).status_code == 200
        assert clean(backend_of(client).database, small, audit)["predictions"] == 1


def test_a_client_that_goes_silent_does_not_lock_its_upload(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 0.0
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _: time.monotonic() + ahead)
    monkeypatch.setattr(uploads, "SILENT_SECONDS", 3600.0)
    database = open_database(settings)
    store = UploadStore(database, settings, lambda path: "bag")
    identifier = store.create("a.h5", 8, None, None).id

    async def body(block: bytes, silent: anyio.Event | None = None) -> AsyncIterator[bytes]:
        yield block
        if silent is not None:
            silent.set()
            await anyio.sleep_forever()

    async def talk() -> None:
        nonlocal ahead
        async with anyio.create_task_group() as group:
            silent = anyio.Event()

            async def vanish() -> None:
                with pytest.raises(ConflictError, match="nothing of the part arrived") as ended:
                    await store.append(identifier, 0, body(b"12", silent))
                assert ended.value.offset == 0

            group.start_soon(vanish)
            await silent.wait()
            with pytest.raises(ConflictError, match="another part") as busy:
                await store.append(identifier, 0, body(b"1234"))
            assert busy.value.offset == 0
            ahead = 7200.0
        assert (await store.append(identifier, 0, body(b"1234"))).offset == 4
        assert (await store.append(identifier, 4, body(b"5678"))).kind == "bag"

    anyio.run(talk)
    assert store.path(store.get(identifier)).read_bytes() == b"12345678"
    database.close()


def test_an_upload_whose_file_is_gone_is_gone(client: TestClient, settings: ServiceSettings) -> None:
    place = place_of(client.post("/v1/uploads", json={"filename": "語" * 100 + ".h5", "size": 900}))
    shutil.rmtree(settings.state_dir / "uploads" / place.rsplit("/", 1)[1])
    assert client.put(place, params={"offset": 0}, content=b"12").status_code == 404
    assert client.get(place).status_code == 404


def test_a_larger_bag_becomes_a_job_and_a_full_queue_says_when_to_come_again(
    settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    predictor.go_on.clear()
    limited = settings.model_copy(update={"sync_max_instances": 2, "max_queued_jobs": 1, "grace_seconds": 0.0})
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1, 0.9, 0.2])))}
    with TestClient(app_with(limited, predictor)) as client:
        running = client.post("/v1/predictions", files=files)
        assert predictor.started.wait(600)
        waiting = client.post("/v1/predictions", files=files)
        full = client.post("/v1/predictions", files=files)
        assert (running.status_code, waiting.status_code, full.status_code) == (202, 202, 429)
        assert full.headers["retry-after"] == "30"
        assert client.post(waiting.json()["links"]["cancel"]).json()["state"] == "cancelled"
        assert client.post(running.json()["links"]["cancel"]).json()["state"] == "cancelled"
        listed = client.get("/v1/jobs", params={"state": "cancelled"}).json()["items"]
        assert {job["id"] for job in listed} == {running.json()["id"], waiting.json()["id"]}
        predictor.go_on.set()
    assert not (settings.state_dir / "predictions" / running.json()["id"]).exists()


HOSTS = {"webhook_hosts": ("lims.example", "127.0.0.1"), "webhook_secret": SecretStr("s")}


@pytest.mark.parametrize(
    "wrong",
    [
        "http://lims.example/", "https://other.example/", "https://lims.example@evil.example/", "https://a:b@lims.example/",
        "https://lims.example.evil.example/", "ftp://lims.example/", "https://[", "https://lims.example:99999/", "lims.example",
        "https://lims.example/\n", "",
    ],
)  # fmt: skip
def test_webhooks_go_nowhere_else(wrong: str) -> None:
    with pytest.raises(ComelError):
        check_url(wrong, JobSettings(**HOSTS))


PRIVATE = [
    "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1", "0.0.0.0", "224.0.0.1", "100.64.0.1",
    "::", "fe80::1%eth0", "ff02::1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::10.0.0.1", "64:ff9b:1::8.8.8.8",
    "2002:a00:1::", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2001:0:a00:1::", "2001:0:808:808:0:0:f5ff:fffe", "::10.0.0.1",
    "::ffff:0:10.0.0.1", "fec0::1", "192.88.99.1", "::ffff:192.88.99.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused_unless_it_is_allowed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that a gateway makes of another: NAT64, 6to4, Teredo."""
    for found in ([address], ["8.8.8.8", address], [address, "2606:4700::1"]):
        entries = [(0, 0, 0, "", (one, 443)) for one in found]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, entries=entries, **__: entries)
        with pytest.raises(ComelError, match="private"):
            resolve("https://lims.example/", JobSettings(**HOSTS))
        assert resolve("https://lims.example/x?y", JobSettings(webhook_private=True, **HOSTS)).address == found[0]


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"])
def test_a_public_address_is_called(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 443))])
    assert resolve("https://lims.example/", JobSettings(**HOSTS)).address == address


def test_a_signature_is_of_this_body_and_this_time() -> None:
    header = sign("secret", b"body", at=1000)
    assert verify("secret", b"body", header, now=1100)
    assert not verify("secret", b"body", header, now=2000)
    assert not verify("other", b"body", header, now=1000)
    assert not verify("secret", b"bodY", header, now=1000)
    for wrong in ("", "t=1000", "t=x,v1=y", header.replace("1000", "1001")):
        assert not verify("secret", b"body", wrong, now=1000)
    assert [wait_before(attempt) for attempt in (2, 3, 4, 50)] == [10, 20, 40, 3600]


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[bytes, str]], list[int]]]:
    """A webhook receiver: its URL, the calls it had, and the statuses that it answers, in order."""
    calls: list[tuple[bytes, str]] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append((self.rfile.read(int(self.headers["Content-Length"])), self.headers["Comel-Signature"]))
            self.send_response(statuses.pop(0) if statuses else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/ended", calls, statuses
    server.shutdown()
    server.server_close()


def test_the_end_of_a_job_is_told_signed_and_again_until_it_is_taken(
    settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outbox, "run", lambda self: None)  # the test sends by itself
    target, calls, statuses = receiver
    statuses.append(500)
    chosen = settings.model_copy(update={**HOSTS, "webhook_private": True})
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1, 0.9])))}
    with TestClient(app_with(chosen, predictor)) as client:
        refused = client.post("/v1/predictions", files=files, data={"webhook": "http://other.example/"})
        assert refused.status_code == 422
        job = ended(client, client.post("/v1/predictions", files=files, data={"webhook": target}))
        database = backend_of(client).database
        calls_due = Outbox(database, chosen, log=FakeLog())
        assert calls_due.send_one()
        assert not calls_due.send_one()  # due again only later
        with database.writing() as session:
            row = session.get_one(Delivery, job["id"])
            assert (row.state, row.attempts, row.answer) == ("due", 1, "status 500")
            assert row.due > time.time() + 5
            session.execute(update(Delivery).values(due=0.0))
        assert calls_due.send_one()
        with database.reading() as session:
            assert session.get_one(Delivery, job["id"]).state == "taken"
    assert len(calls) == 2
    body, signature = calls[1]
    assert verify("s", body, signature, now=time.time())
    assert json.loads(body)["prediction"] == job["links"]["prediction"]


def test_a_receiver_that_drips_is_cut_off(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_TIMEOUT_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                for letter in itertools.cycle(b"HTTP/1.1 2"):
                    connection.sendall(bytes([letter]))
                    if over.wait(0.1):
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        job = Job(id="0" * 32, state="done", webhook=f"http://127.0.0.1:{server.getsockname()[1]}/")
        chosen = settings.model_copy(update={**HOSTS, "webhook_private": True})
        taken, said = Outbox(None, chosen, log=FakeLog())._call(job)  # type: ignore[arg-type]
        over.set()
        dripping.join(600)
    assert not taken, said


def test_a_slide_that_became_a_link_is_not_read(settings: ServiceSettings, tmp_path: Path) -> None:
    secret, slide = tmp_path / "secret.tif", settings.slide_roots[0].resolve() / "a.tif"
    secret.touch()
    slide.touch()
    job = Job(id="0" * 32, source={"path": str(slide)})
    assert Inbox(settings.state_dir).path(job) == slide
    slide.unlink()
    slide.symlink_to(secret)
    with pytest.raises(ComelError, match="not the file that was named"):
        Inbox(settings.state_dir).path(job)


def test_the_bag_of_a_job_that_is_cancelled_while_it_waits_goes_with_it(
    settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobQueue, "claim", lambda self, owner, given_up: None)
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1])))}
    with TestClient(app_with(settings, predictor)) as client:
        job = client.post("/v1/predictions", files=files, headers={"Prefer": "respond-async"}).json()
        assert len(list((settings.state_dir / "inbox").iterdir())) == 1
        assert client.post(job["links"]["cancel"]).json()["state"] == "cancelled"
        assert list((settings.state_dir / "inbox").iterdir()) == []


def test_a_pool_that_drains_begins_nothing_more(
    settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    files = {"bag": ("a.h5", bag_bytes(tmp_path, make_bag([0.1])))}
    with TestClient(app_with(settings, predictor)) as client:
        ended(client, client.post("/v1/predictions", files=files, headers={"Prefer": "respond-async"}))
        backend_of(client).pool.drain()
        job = client.post("/v1/predictions", files=files, headers={"Prefer": "respond-async"}).json()
        time.sleep(1.5)
        assert client.get(job["links"]["self"]).json()["state"] == "queued"


class FakeLog:
    def info(self, *_: Any, **__: Any) -> None:
        return

    error = warning = info


def test_old_predictions_expired_uploads_and_what_was_left_behind_go(
    client: TestClient, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    made = [send(make_bag([0.1, score])).json()["id"] for score in (0.2, 0.3, 0.4)]
    folder, database = settings.state_dir / "predictions", backend_of(client).database
    begun = client.post("/v1/uploads", json={"filename": "a", "size": 9}).json()["id"]
    for name in (".partial-x", f".removed-{'0' * 32}.x"):
        (folder / name).mkdir()
    audit = client.app.state.audit  # type: ignore[attr-defined]
    assert not any(clean(database, settings, audit).values())
    with database.writing() as session:
        session.execute(update(PredictionRow).where(PredictionRow.id == made[0]).values(created=1.0))
        session.execute(update(Upload).values(expires=1.0))
    removed = clean(database, settings.model_copy(update={"keep_days": 1.0}), audit, left_behind_seconds=-1)
    assert removed == {"predictions": 1, "uploads": 1, "jobs": 0, "left_behind": 2, "adopted": 0, "set_aside": 0}
    assert {path.name for path in folder.iterdir()} == set(made[1:])
    assert client.get(f"/v1/predictions/{made[0]}").status_code == client.get(f"/v1/uploads/{begun}").status_code == 404
    size = backend_of(client).predictions.row(made[2]).size
    clean(database, settings.model_copy(update={"max_state_bytes": size + 1}), audit)
    assert [entry["id"] for entry in client.get("/v1/predictions").json()["items"]] == [made[2]]
    lines = [json.loads(line) for line in audit.path.read_text().splitlines()]
    deleted = [(line.get("by"), line.get("prediction") or line.get("upload")) for line in lines if line["action"] == "delete"]
    assert deleted == [("keep_days", made[0]), ("upload_hours", begun), ("max_state_bytes", made[1])]
