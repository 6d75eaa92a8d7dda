"""A service whose worker processes are threads of the test: for models that exist in it alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from comel.base.killable import Fault, WorkerFailure
from comel.errors import RunError
from comel.runs.directory import RunDirectory
from service.app import create_app
from service.jobs.executors import Executor
from service.predictions.work import Made, Tell, Work, Workbench
from service.served.registry import ModelRegistry, PredictorLike
from service.settings import ServiceSettings


class OneModel(ModelRegistry):
    """One predictor under the name of the settings' first run. It never changes."""

    def __init__(self, settings: ServiceSettings, predictor: PredictorLike) -> None:
        super().__init__(settings)
        self._predictor = predictor
        self._runs = {self.names[0]: self._runs[self.names[0]]} if self._runs else {"model": RunDirectory(Path("model"))}
        self._answering = {self.names[0]: predictor.version}

    def _wanted(self, name: str) -> int:
        return self._predictor.version

    def _check(self, name: str, version: int) -> None:
        if version != self._predictor.version:
            raise RunError(f"model '{name}' has no version {version}", f"it has {self._predictor.version}")

    def _open(self, name: str, version: int) -> PredictorLike:
        self._check(name, version)
        return self._predictor


class InThisProcess(Executor):
    """Works in the thread that asks, one at a time. Its work cannot be killed: who wants its end waits for it."""

    def __init__(self, bench: Workbench) -> None:
        self._bench, self._turn = bench, threading.Lock()

    @property
    def pid(self) -> int | None:
        """This process."""
        return os.getpid()

    def perform(self, work: Work, tell: Tell, *, timeout: float, wait: float | None = None) -> Made:
        """Do it here."""
        if not self._turn.acquire(timeout=-1 if wait is None else wait):
            raise WorkerFailure(Fault.BUSY, "others had it")
        try:
            return self._bench.perform(work, tell)
        finally:
            self._turn.release()

    def prepare(self, model: str, version: int | None, *, timeout: float, wait: float | None = None) -> int:
        """There is nothing to load."""
        return os.getpid()

    def kill(self) -> None:
        """Not possible."""

    def close(self) -> None:
        """There is nothing to end."""


def app_with(settings: ServiceSettings, predictor: PredictorLike, **more: Any) -> FastAPI:
    """The application with ``predictor`` as its one model; other arguments are those of ``create_app``."""
    models = OneModel(settings, predictor)
    bench = Workbench(settings, models.get)
    return create_app(settings, models=models, executor=lambda settings, gpu=None: InThisProcess(bench), **more)
