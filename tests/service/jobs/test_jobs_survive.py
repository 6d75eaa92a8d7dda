"""A real server, started as a user starts it: what it accepted it does, once, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from comel.bags.bag import Bag, TileGeometry, read_bag, write_bag
from comel.prediction.predictor import Predictor
from tests.places import ROOT
from tests.service.databases import postgres  # noqa: F401
from tests.service.runs import CONTRACT, a_bag, a_run

ASYNC = {"Prefer": "respond-async"}
PATIENT = {"COMEL_LEASE_SECONDS": "600", "COMEL_SYNC_MAX_INSTANCES": "0"}
"""For a job whose lease is not to run out, however seldom its worker comes to say that it lives."""
LONG = 600.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    return a_run(tmp_path_factory.mktemp("survive"), "run", "colon")


class Server:
    """``comel serve`` (or ``comel worker``) as a process of its own, which may be killed and started again."""

    def __init__(self, run: Path, state: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=LONG)
        self.run, self.state, self.log = run, state, state.with_suffix(".log")
        settings = {"COMEL_LEASE_SECONDS": "3", "COMEL_MAX_ATTEMPTS": "200", "COMEL_GRACE_SECONDS": "5", "OMP_NUM_THREADS": "1"}
        self._environment = os.environ | settings | {"PYTHONPATH": str(ROOT)} | environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        self.process = self._spawn("serve", "--port", str(self.port))
        deadline = time.monotonic() + LONG
        while wait:
            try:
                if self.client.get("/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)

    def worker(self) -> subprocess.Popen[bytes]:
        return self._spawn("worker")

    def _spawn(self, command: str, *more: str) -> subprocess.Popen[bytes]:
        said = [sys.executable, "-m", "comel.app.cli", command, "--model", f"m={self.run}", "--state", str(self.state)]
        with open(self.log, "ab") as log:
            return subprocess.Popen([*said, "--device", "cpu", *more], env=self._environment, stdout=log, stderr=log)

    def children(self) -> list[psutil.Process]:
        """The worker processes."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # one of them may have died just now
                if "comel.base.killable" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port), timeout=LONG):
            return True
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(LONG)

    def send(self, path: Path, **headers: str) -> Any:
        return self.client.post("/v1/predictions", files={"bag": (path.name, path.read_bytes())}, headers=headers)


@pytest.fixture
def server_of(run: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of the run with settings of their own; those that still run at the end are killed."""
    made: list[Server] = []

    def of(**environment: str) -> Server:
        made.append(Server(run, tmp_path / "state", **environment))
        return made[-1]

    yield of
    for server in made:
        server.client.close()
        if server.process is not None and server.process.poll() is None:
            server.kill()


@pytest.fixture
def server(server_of: Callable[..., Server]) -> Server:
    return server_of()


def load(folder: Path, count: int) -> list[Path]:
    """Bags of different sizes, each of its own."""
    generator, paths = np.random.default_rng(3), []
    for index in range(count):
        instances = int(generator.integers(5, 3000))
        place = np.arange(instances)
        coords = np.stack([place % 50, place // 50], axis=1).astype(np.int64) * 64
        geometry = TileGeometry(64, 0.5, 0.5, 0.5, 0.5, 4000, 4000)
        features = generator.normal(size=(instances, CONTRACT.dimension)).astype(np.float32)
        paths.append(folder / f"bag-{index}.h5")
        write_bag(paths[-1], Bag(f"bag-{index}", features, coords, geometry, CONTRACT))
    return paths


def kill_again_and_again(server: Server, folder: Path, *, kills: int, bags: int) -> None:
    """Kill the server or its worker at random moments while bags are sent; then every accepted job must be done, and right."""
    chance, paths = random.Random(5), load(folder, bags)
    accepted: dict[str, Path] = {}
    server.start()
    for number, path in enumerate(paths):
        # A client that was cut off sends the same request again.
        deadline = time.monotonic() + LONG
        while True:
            try:
                answer = server.send(path, **ASYNC, **{"Idempotency-Key": path.name})
                assert answer.status_code == 202, answer.text
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, server.log.read_text()[-3000:]
                assert server.process is not None
                assert server.process.poll() is None, server.log.read_text()[-3000:]
        accepted[answer.json()["id"]] = path
        if number * kills // bags != (number + 1) * kills // bags:
            time.sleep(chance.random() * 2)
            children = server.children()
            if children and chance.random() < 0.5:
                children[0].kill()
            else:
                server.kill()
                server.start()
    assert len(accepted) == bags
    ended: dict[str, Any] = {}
    while ended.keys() != accepted.keys():
        known, deadline = len(ended), time.monotonic() + LONG
        while len(ended) == known:
            assert time.monotonic() < deadline, server.log.read_text()[-3000:]
            time.sleep(0.3)
            ended = {job["id"]: job for job in jobs(server) if job["state"] not in ("queued", "running")}
    predictor = Predictor.open(server.run, device="cpu")
    for identifier, path in accepted.items():
        assert ended[identifier]["state"] == "done", ended[identifier]
        told = server.client.get(f"/v1/predictions/{identifier}/instances").json()["instances"]
        wanted = predictor.predict(read_bag(path))
        np.testing.assert_allclose(np.array(told["scores"], np.float32), wanted.instance_scores, atol=1e-5)
    assert {path.name for path in (server.state / "predictions").iterdir() if not path.name.startswith(".")} == set(accepted)
    # What a job that was killed between its end and this has left is housekeeping's: every job has ended.
    assert {path.name for path in (server.state / "inbox").iterdir()} <= set(accepted)


def jobs(server: Server) -> list[Any]:
    items, cursor = [], None
    while True:
        page = server.client.get("/v1/jobs", params={"limit": 200} | ({"cursor": cursor} if cursor else {})).json()
        items += page["items"]
        if (cursor := page["next"]) is None:
            return items


def test_a_job_outlives_the_server_and_its_worker(server: Server, tmp_path: Path) -> None:
    kill_again_and_again(server, tmp_path, kills=2, bags=3)
    assert server.stop() in (0, -signal.SIGTERM)


def held(server: Server, bag: Path) -> tuple[str, psutil.Process]:
    """A job that runs for as long as its worker process is stopped, and that process."""
    first = server.send(bag, **ASYNC).json()["id"]
    wait_for(server, first, "done")
    (worker,) = (child for child in server.children() if any("torch" in part.path for part in child.memory_maps()))
    worker.suspend()
    job = server.send(bag, **ASYNC).json()["id"]
    wait_for(server, job, "running")
    return job, worker


def wait_for(server: Server, job: str, state: str) -> Any:
    deadline = time.monotonic() + LONG
    while (told := server.client.get(f"/v1/jobs/{job}").json())["state"] != state:
        assert time.monotonic() < deadline, (told, server.log.read_text()[-3000:])
        time.sleep(0.1)
    return told


def states_of(server: Server) -> dict[str, str]:
    """The state of each job, also of a server that is told nothing any more."""
    with closing(sqlite3.connect(server.state / "comel.db")) as rows:
        return dict(rows.execute("SELECT id, state FROM jobs").fetchall())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=LONG)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_that_runs_is_cancelled_and_its_process_ended(server_of: Callable[..., Server], tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", a_bag("colon", "tumour", "a"))
    server = server_of(**PATIENT)
    server.start()
    job, worker = held(server, tmp_path / "a.h5")
    assert server.client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert gone(worker)
    assert server.client.get(f"/v1/predictions/{job}").status_code == 404
    after = server.send(tmp_path / "a.h5", **ASYNC).json()["id"]
    wait_for(server, after, "done")
    assert server.client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"
    assert server.stop() in (0, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_service_told_to_stop_puts_back_what_takes_too_long(server_of: Callable[..., Server], tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", a_bag("colon", "tumour", "a"))
    server = server_of(**PATIENT, COMEL_GRACE_SECONDS="2", COMEL_MAX_ATTEMPTS="1")
    server.start()
    job, worker = held(server, tmp_path / "a.h5")
    assert server.stop() in (0, -signal.SIGTERM)
    assert gone(worker)
    with closing(sqlite3.connect(server.state / "comel.db")) as rows:
        assert rows.execute("SELECT state, attempts, lease_owner FROM jobs WHERE id = ?", [job]).fetchone() == (
            "queued",
            0,
            None,
        )
    server.start()
    wait_for(server, job, "done")
    assert server.stop() in (0, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_service_told_to_stop_begins_no_job_while_requests_end(server_of: Callable[..., Server], tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", a_bag("colon", "tumour", "a"))
    server = server_of(**PATIENT, COMEL_GRACE_SECONDS="600")
    server.start()
    running, worker = held(server, tmp_path / "a.h5")
    waiting = [server.send(tmp_path / "a.h5", **ASYNC).json()["id"] for _ in range(2)]
    begun = server.client.post("/v1/uploads", json={"filename": "a.h5", "size": 1000}).json()
    assert server.process is not None
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG) as stalled:
        head = f"PUT /v1/uploads/{begun['id']}?offset=0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        stalled.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert b" 100 " in stalled.recv(100)
        server.process.terminate()
        until(lambda: not server.listens())
        worker.resume()
        until(lambda: states_of(server)[running] == "done")
    assert server.process.wait(LONG) in (0, -signal.SIGTERM)
    assert [states_of(server)[job] for job in waiting] == ["queued", "queued"]


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_fifty_kills_under_load_lose_and_double_no_job(server: Server, tmp_path: Path) -> None:
    kill_again_and_again(server, tmp_path, kills=50, bags=150)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_elsewhere_does_what_the_server_accepts(
    server_of: Callable[..., Server],
    tmp_path: Path,
    postgres: str,  # noqa: F811
) -> None:
    server = server_of(COMEL_DATABASE_URL=postgres, COMEL_WORKERS="0")
    server.start()
    write_bag(tmp_path / "a.h5", a_bag("colon", "tumour", "a"))
    identifier = server.send(tmp_path / "a.h5", **ASYNC).json()["id"]
    time.sleep(3)
    assert jobs(server)[0]["state"] == "queued"
    server._environment["COMEL_WORKERS"] = "1"
    worker = server.worker()
    wait_for(server, identifier, "done")
    worker.terminate()
    assert worker.wait(LONG) == 0
    assert server.stop() in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_a_worker_process_loads_no_peft(run: Path, tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", a_bag("colon", "tumour", "a"))
    code = """
import sys, json
from pathlib import Path
from service.jobs import executors
from service.predictions.work import Work
from service.settings import ServiceSettings
settings = ServiceSettings(runs={"m": Path(sys.argv[1])}, state_dir=Path(sys.argv[2]), device="cpu")
made = executors._perform(settings, Work("0" * 32, "bag", Path(sys.argv[3]), "a", "m", 1), print)
print(json.dumps([made.slide_id, "torch" in sys.modules, "peft" in sys.modules, "transformers" in sys.modules]))
"""
    said = [sys.executable, "-c", code, str(run), str(tmp_path / "state"), str(tmp_path / "a.h5")]
    done = subprocess.run(said, capture_output=True, text=True, timeout=LONG, cwd=ROOT, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == ["a", True, False, False]
