"""Bags that are answered at once are read by a process of their own: whatever they do to it, the service goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from fastapi.testclient import TestClient

from comel.bags.bag import write_bag
from comel.base.killable import Fault
from comel.errors import ComelError
from service.app import create_app
from service.errors import BusyError, NotReadyError, TooLargeError
from service.jobs.at_once import LOAD_SECONDS, AtOnce
from service.jobs.executors import Executor
from service.predictions.work import Work
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings
from tests.failing import failing
from tests.service.runs import a_bag, a_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("at once"), "run", "colon")


@pytest.fixture
def settings(run: Path, tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(runs={"colon": run}, state_dir=tmp_path / "state", device="cpu", workers=0, sync_timeout_seconds=120)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    write_bag(tmp_path / "a.h5", a_bag("colon", "tumour", "a"))
    return tmp_path / "a.h5"


def test_the_process_that_answers_opens_no_bag(settings: ServiceSettings, bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bag.read_bytes()
    with TestClient(create_app(settings)) as client:

        def refuse(*arguments: Any, **named: Any) -> None:
            raise AssertionError("an uploaded file was opened in the process that serves")

        monkeypatch.setattr(h5py, "File", refuse)
        answer = client.post("/v1/predictions", files={"bag": ("a.h5", content)})
        assert answer.status_code == 201, answer.text
        assert answer.json()["instances"]["count"] == 9
        broken = client.post("/v1/predictions", files={"bag": ("a.h5", content[: len(content) // 2])})
        assert (broken.status_code, broken.headers["content-type"]) == (422, "application/problem+json")
        assert client.get(f"/v1/predictions/{answer.json()['id']}").json()["instances"]["count"] == 9


class Doing(Executor):
    """Its child calls another function first."""

    first: tuple[Callable[..., Any], Any] | None = None

    def perform(self, work: Work, tell: Any, *, timeout: float, wait: float | None = None) -> Any:
        if self.first is not None:
            self._pool.call(*self.first, timeout=timeout, wait=wait)
        return super().perform(work, tell, timeout=timeout, wait=wait)


@pytest.fixture
def at_once(settings: ServiceSettings) -> Iterator[tuple[AtOnce, Doing]]:
    settings.state_dir.mkdir()
    executor = Doing(settings)
    opened = AtOnce(executor, settings.model_copy(update={"sync_timeout_seconds": 0.5}))
    yield opened, executor
    opened.close()


def test_a_bag_that_ends_the_process_costs_its_own_request_only(
    at_once: tuple[AtOnce, Doing], bag: Path, settings: ServiceSettings
) -> None:
    impatient, executor = at_once
    opened = AtOnce(executor, settings)
    work = Work("0" * 32, "bag", bag, "a", "colon", 1)
    executor.first = os._exit, 11
    opened.prepare("colon", 1)
    with pytest.raises(ComelError, match="died") as crashed:
        opened.perform(work)
    assert "damaged" in crashed.value.remedy
    executor.first = time.sleep, 600
    impatient.prepare("colon", 1)
    with pytest.raises(ComelError, match=r"longer than 0\.5 s") as late:
        impatient.perform(work)
    assert "respond-async" in late.value.remedy
    executor.first = bytearray, 1 << 60
    opened.prepare("colon", 1)
    with pytest.raises(TooLargeError, match="more memory"):
        opened.perform(work)
    executor.first = int, "no number"
    with failing(Fault.DEFECT, "ValueError"):
        opened.perform(work)
    executor.first = None
    assert opened.perform(work).instances == 9


def test_a_service_that_stops_does_not_wait_for_a_bag(at_once: tuple[AtOnce, Doing], bag: Path) -> None:
    opened, executor = at_once
    opened = AtOnce(executor, ServiceSettings(sync_timeout_seconds=240))
    executor.first = time.sleep, 600
    ended: list[str] = []

    def ask() -> None:
        try:
            opened.perform(Work("0" * 32, "bag", bag, "a", "colon", 1))
        except Exception as error:
            ended.append(type(error).__name__)

    asking = threading.Thread(target=ask)
    asking.start()
    while executor.pid is None:
        time.sleep(0.05)
    time.sleep(0.5)
    waiting = threading.Thread(target=ask)
    waiting.start()
    opened.close()
    for thread in (asking, waiting):
        thread.join(600)
    assert ended == ["NotReadyError"] * 2
    assert executor.pid is None


def test_who_waits_too_long_for_a_turn_is_told_to_come_back(at_once: tuple[AtOnce, Doing], bag: Path) -> None:
    opened, executor = at_once
    opened.prepare("colon", 1)
    with executor._pool._one(1), pytest.raises(BusyError, match="too many requests are before this one") as busy:
        opened.perform(Work("0" * 32, "bag", bag, "a", "colon", 1))
    assert "respond-async" in busy.value.remedy


def test_a_frozen_process_costs_a_request_no_more_than_its_time(at_once: tuple[AtOnce, Doing], bag: Path) -> None:
    """Loading, which may take minutes, is not waited for again where the model was loaded."""
    opened, executor = at_once
    opened.prepare("colon", 1)
    assert executor.pid is not None
    os.kill(executor.pid, signal.SIGSTOP)
    with pytest.raises(ComelError, match=r"longer than 0\.5 s"):
        opened.perform(Work("0" * 32, "bag", bag, "a", "colon", 1))
    assert executor.pid is None
    opened.prepare("colon", 1)
    assert executor.pid is not None


def test_who_comes_while_a_model_is_loaded_is_told_so_and_loading_goes_on(at_once: tuple[AtOnce, Doing], bag: Path) -> None:
    opened, executor = at_once
    loaded, begun = threading.Event(), threading.Event()
    asked: list[float] = []

    def load(model: str, version: int | None, *, timeout: float, wait: float | None = None) -> int:
        asked.append(timeout)
        begun.set()
        assert loaded.wait(600)
        return 0

    executor.prepare = load  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(NotReadyError, match="is being loaded"):
            opened.perform(Work("0" * 32, "bag", bag, "a", "colon", 1))
    assert begun.wait(600)
    assert asked == [LOAD_SECONDS]  # once, however many come meanwhile
    loaded.set()
    opened.prepare("colon", 1)


@pytest.mark.slow
def test_after_a_process_died_the_next_one_loads_the_model(settings: ServiceSettings, bag: Path) -> None:
    settings.state_dir.mkdir()
    executor = Executor(settings)
    opened = AtOnce(executor, settings)
    for number in range(2):
        assert opened.perform(Work(f"{number:032x}", "bag", bag, "a", "colon", 1)).instances == 9
        executor.kill()
        while executor.pid is not None:
            time.sleep(0.01)
    opened.close()


def test_a_working_process_keeps_every_model(settings: ServiceSettings, run: Path) -> None:
    models = ModelRegistry(settings.model_copy(update={"runs": dict.fromkeys("abcde", run)}))
    opened = [models.get(name, 1) for name in "abcde"]
    assert [models.get(name, 1) for name in "abcde"] == opened


def test_a_model_is_loaded_ahead(at_once: tuple[AtOnce, Doing], settings: ServiceSettings) -> None:
    opened, executor = at_once
    opened.prepare("colon", 1)
    assert executor.pid is not None
    with pytest.raises(ComelError, match="version"):
        opened.prepare("colon", 7)


def test_a_process_with_little_memory_refuses_a_large_bag(settings: ServiceSettings, bag: Path) -> None:
    """The limit of the settings reaches the process."""
    executor = Executor(settings.model_copy(update={"worker_memory_bytes": 3 << 30}))
    with failing(Fault.MEMORY):
        executor._pool.call(bytearray, 4 << 30, timeout=600)
    assert executor._pool.call(len, b"abc", timeout=600) == 3
    executor.close()
