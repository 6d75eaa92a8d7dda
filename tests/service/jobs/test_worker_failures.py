"""What a client reads where a worker process fails: each failure brought about for real, at each place that has processes."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comel.base.killable import Fault
from comel.base.workers import WorkerPool
from comel.errors import ComelError, SlideError
from pipelines.slides.unreadable import CONVERT, COPY_OR_CONVERT
from service.backend import open_database
from service.db.database import Database
from service.errors import BusyError, NotReadyError, TooLargeError
from service.intake import upload_kinds
from service.jobs.at_once import AtOnce
from service.jobs.executors import Executor
from service.jobs.queue import JobQueue, NewJob
from service.jobs.worker import Worker
from service.logs import make_log
from service.predictions.work import Work
from service.settings import ServiceSettings
from service.slides import pictures
from service.slides.pictures import SlidePictures
from tests.failing import failing

STOPPING = "the service is stopping; send it again in a minute"
NONE = "no worker process can be started; send it again in a minute"


def crash(*_: object) -> None:
    os._exit(11)


def hang(*_: object) -> None:
    threading.Event().wait()


def ask_for_too_much(*_: object) -> None:
    bytearray(1 << 60)


def stumble(*_: object) -> None:
    raise ValueError("/a/path: 1234")


def say_and_hang(tell: Callable[[None], None]) -> None:
    tell(None)
    threading.Event().wait()


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    (tmp_path / "run").mkdir()
    return ServiceSettings(runs={"m": tmp_path / "run"}, state_dir=tmp_path / "state", max_attempts=1)


@pytest.fixture
def slides() -> Iterator[SlidePictures]:
    opened = SlidePictures(1)
    yield opened
    opened.close()


@pytest.fixture
def bags() -> Iterator[WorkerPool]:
    with WorkerPool() as opened:
        yield opened


@pytest.mark.parametrize(
    ("function", "what", "remedy"),
    [
        (crash, "s.svs: breaks the decoder", COPY_OR_CONVERT),
        (hang, "s.svs: takes longer than 0.5 s to decode", CONVERT),
        (ask_for_too_much, "s.svs: cannot be decoded (MemoryError)", CONVERT),
        (stumble, "s.svs: cannot be decoded (ValueError)", CONVERT),
    ],
)
def test_of_a_picture(
    slides: SlidePictures, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], what: str, remedy: str
) -> None:
    monkeypatch.setattr(pictures, "CALL_SECONDS", 0.5 if function is hang else 60.0)
    with pytest.raises(SlideError) as caught:
        slides._call(function, Path("/private/s.svs"))
    assert (caught.value.what, caught.value.remedy, caught.value.stage) == (what, remedy, "open")


@pytest.mark.usefixtures("no_processes")
def test_of_a_picture_without_a_process(slides: SlidePictures) -> None:
    with pytest.raises(NotReadyError, match=NONE):
        slides._call(crash, Path("/private/s.svs"))


def test_of_a_picture_that_others_are_before(slides: SlidePictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "WAIT_SECONDS", 0.0)
    with slides._pool._one(None), pytest.raises(NotReadyError, match="all decoders are busy; ask again in a minute"):
        slides._call(crash, Path("/private/s.svs"))


def test_of_a_picture_that_is_being_made_as_the_service_stops(slides: SlidePictures) -> None:
    slides.close()
    with pytest.raises(NotReadyError, match=STOPPING):
        slides._call(crash, Path("/private/s.svs"))


@pytest.mark.parametrize(
    ("function", "seconds", "told"),
    [
        (crash, 60.0, "/in/b: cannot be read as a slide or a bag; check the file"),
        (ask_for_too_much, 60.0, "/in/b: cannot be read as a slide or a bag; check the file"),
        (stumble, 60.0, "/in/b: cannot be read as a slide or a bag; check the file"),
        (
            hang,
            0.5,
            "/in/b: checking it took longer than 0.5 s; send it again; if that does not help, check the file",
        ),
    ],
)
def test_of_an_upload(bags: WorkerPool, function: Callable[..., Any], seconds: float, told: str) -> None:
    with pytest.raises(ComelError) as caught:
        upload_kinds._look(bags, seconds, function, Path("/in/b"))
    assert (type(caught.value), str(caught.value)) == (ComelError, told)


def test_of_an_upload_without_a_process(bags: WorkerPool, no_processes: None) -> None:
    with pytest.raises(NotReadyError, match=NONE):
        upload_kinds._look(bags, 60.0, crash, Path("/in/b"))


def test_of_an_upload_that_others_are_before(bags: WorkerPool) -> None:
    with bags._one(None), pytest.raises(BusyError, match="too many requests are before this one; send it again later"):
        upload_kinds._look(bags, 0.0, crash, Path("/in/b"))


class Doing(Executor):
    """Its process does something else than what it is asked to."""

    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self.does: Callable[..., Any] = crash
        self.begun = threading.Event()

    def perform(self, work: Work, tell: Any, *, timeout: float, wait: float | None = None) -> Any:
        return self._pool.call(self.does, timeout=timeout, wait=wait, tell=lambda _: self.begun.set())

    def prepare(self, model: str, version: int | None, *, timeout: float, wait: float | None = None) -> int:
        return int(self._pool.call(self.does, timeout=timeout, wait=wait, tell=lambda _: None))


@pytest.fixture
def executor(settings: ServiceSettings) -> Iterator[Doing]:
    opened = Doing(settings)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (crash, "the model cannot be loaded (the process died (exit code 11)); ask the service's operator"),
        (ask_for_too_much, "the model needs more memory than a worker has; raise worker_memory_bytes"),
    ],
)
def test_of_a_model(settings: ServiceSettings, executor: Doing, function: Callable[..., Any], told: str) -> None:
    executor.does = function
    with pytest.raises(NotReadyError) as caught:
        AtOnce(executor, settings).prepare("m", 1)
    assert str(caught.value) == told


def test_of_a_model_that_is_a_defect(settings: ServiceSettings, executor: Doing) -> None:
    """It stays an exception of ours, which the service answers with status 500 and writes into its log."""
    executor.does = stumble
    with failing(Fault.DEFECT):
        AtOnce(executor, settings).prepare("m", 1)


@pytest.mark.usefixtures("no_processes")
def test_of_a_model_without_a_process(settings: ServiceSettings, executor: Doing) -> None:
    with pytest.raises(NotReadyError, match=NONE):
        AtOnce(executor, settings).prepare("m", 1)


class Loaded(Doing):
    """Its model is loaded."""

    def prepare(self, model: str, version: int | None, *, timeout: float, wait: float | None = None) -> int:
        return int(self._pool.call(os.getpid))


@pytest.mark.parametrize(
    ("function", "kind", "told"),
    [
        (
            crash,
            ComelError,
            "the process that read the bag died; check the file; it may be damaged, or need more memory than a worker has",
        ),
        (
            ask_for_too_much,
            TooLargeError,
            "it needs more memory than a worker has; ask the service's operator for more worker_memory_bytes",
        ),
        (hang, ComelError, "it took longer than 5 s; send it with 'Prefer: respond-async', which makes it a job"),
    ],
)
def test_of_a_bag_that_is_answered_at_once(
    settings: ServiceSettings, function: Callable[..., Any], kind: type[ComelError], told: str
) -> None:
    executor = Loaded(settings)
    executor.does = function
    at_once = AtOnce(executor, settings.model_copy(update={"sync_timeout_seconds": 5.0 if function is hang else 60.0}))
    at_once.prepare("m", 1)
    with pytest.raises(ComelError) as caught:
        at_once.perform(Work("0" * 32, "bag", Path("s.h5"), "s", "m", 1))
    assert (type(caught.value), str(caught.value)) == (kind, told)
    at_once.close()


@pytest.fixture
def database(settings: ServiceSettings) -> Iterator[Database]:
    opened = open_database(settings)
    yield opened
    opened.close()


class Log(io.StringIO):
    """Says when a line is written of a worker that has no process."""

    def __init__(self) -> None:
        super().__init__()
        self.without_process = threading.Event()

    def write(self, text: str) -> int:
        if "no worker process can be started" in text:
            self.without_process.set()
        return super().write(text)


class Office:
    """A queue with one job, and one worker."""

    def __init__(self, settings: ServiceSettings, database: Database, executor: Doing, folder: Path) -> None:
        self.queue, self.ended, self.log = JobQueue(database, settings), threading.Event(), Log()
        (folder / "s.h5").write_bytes(b"bag")
        self.job = self.queue.submit(NewJob("bag", {"path": str(folder / "s.h5")}, {}, "m", 1, "s")).id
        self._worker = Worker(
            self.queue,
            executor,
            lambda *_: self.ended.set(),
            settings,
            log=make_log(self.log),
            hidden=(folder,),
            woken=threading.Event(),
        )

    def __enter__(self) -> Office:
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.abandon()


@pytest.mark.parametrize(
    ("function", "what", "remedy", "event"),
    [
        (
            crash,
            "the worker process died at each of 1 attempts",
            "the file may be damaged, or need more memory than a worker has",
            "a worker process died",
        ),
        (hang, "it took longer than 0.5 s", "ask the service's operator for a longer job_timeout_seconds", "job"),
        (
            ask_for_too_much,
            "it needs more memory than a worker has",
            "ask the operator for more worker_memory_bytes",
            "a job failed",
        ),
        (stumble, "the service failed on this job", "ask its operator about job {job}", "a job failed"),
    ],
)
def test_of_a_job(
    settings: ServiceSettings,
    database: Database,
    executor: Doing,
    tmp_path: Path,
    function: Callable[..., Any],
    what: str,
    remedy: str,
    event: str,
) -> None:
    executor.does = function
    patient = settings.model_copy(update={"job_timeout_seconds": 0.5 if function is hang else 60.0})
    with Office(patient, database, executor, tmp_path) as office:
        assert office.ended.wait(600)
    job = office.queue.get(office.job).job
    assert (job.state, job.error) == ("failed", {"what": what, "remedy": remedy.format(job=job.id)})
    assert event in [json.loads(line)["event"] for line in office.log.getvalue().splitlines()]


def test_of_a_job_while_no_process_can_be_started(
    settings: ServiceSettings, database: Database, executor: Doing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for one: it was accepted, and nothing is wrong with it."""
    executor.does = stumble
    with Office(settings, database, executor, tmp_path) as office:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            assert office.log.without_process.wait(600)
            assert office.queue.get(office.job).job.error is None
        assert office.ended.wait(600)
    job = office.queue.get(office.job).job
    assert (job.attempts, job.error is not None and job.error["what"]) == (1, "the service failed on this job")


def test_of_a_job_under_way_as_the_service_stops(
    settings: ServiceSettings, database: Database, executor: Doing, tmp_path: Path
) -> None:
    executor.does = say_and_hang
    with Office(settings, database, executor, tmp_path) as office:
        assert executor.begun.wait(600)
    job = office.queue.get(office.job).job
    assert (job.state, job.attempts, office.ended.is_set()) == ("queued", 0, False)
