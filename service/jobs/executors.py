"""Where a job's work is done: in a child process that can be killed, or in this process for a model that only it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from comel.base.cores import limit_torch_threads
from comel.base.devices import GPUS_VARIABLE, gpu_names
from comel.base.killable import CallFailed, KillableWorker
from service.logs import make_log, route_library_logs
from service.predictions.work import Made, Tell, Work, Workbench
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings

__all__ = ["ChildExecutor", "Executor", "LocalExecutor", "devices", "ran_out_of_memory"]


class Executor(Protocol):
    """Does one piece of work at a time."""

    @property
    def pid(self) -> int | None:
        """Of the process that does it, None where it is not running."""

    def perform(self, work: Work, tell: Tell, *, timeout: float) -> Made:
        """See :meth:`service.predictions.work.Workbench.perform`; and the exceptions of :meth:`KillableWorker.call`.

        Args:
            work: what to do.
            tell: told how far it is.
            timeout: most seconds that it may take, where the work can be ended.
        """

    def prepare(self, model: str, version: int | None, *, timeout: float) -> None:
        """Load a model ahead of work for it, which costs nothing where it is loaded; the same exceptions."""

    def kill(self) -> bool:
        """End the work under way; False where that is not possible."""

    def close(self) -> None:
        """End the process, if there is one."""


class ChildExecutor:
    """A child process with limited memory and time; slides and bags are decoded in it and nowhere else.

    Args:
        settings: the service's.
        gpu: the GPU that the process sees, None to see all.
    """

    def __init__(self, settings: ServiceSettings, *, gpu: str | None = None) -> None:
        self._settings = settings
        environment = {} if gpu is None else {GPUS_VARIABLE: gpu}
        self._child = KillableWorker(memory_bytes=settings.worker_memory_bytes, environment=environment)

    @property
    def pid(self) -> int | None:
        """Of the process, None where it is not running."""
        return self._child.pid

    def perform(self, work: Work, tell: Tell, *, timeout: float) -> Made:
        made = self._child.call(_perform, self._settings, work, timeout=timeout, tell=lambda message: tell(*message))
        assert isinstance(made, Made)
        return made

    def prepare(self, model: str, version: int | None, *, timeout: float) -> None:
        self._child.call(_prepare, self._settings, model, version, timeout=timeout)

    def kill(self) -> bool:
        self._child.kill()
        return True

    def close(self) -> None:
        self._child.close()


class LocalExecutor:
    """In this process, with a model that was given to it. Such work cannot be killed: its result is dropped instead."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    @property
    def pid(self) -> int | None:
        """This process."""
        return os.getpid()

    def perform(self, work: Work, tell: Tell, *, timeout: float) -> Made:
        return self._bench.perform(work, tell)

    def prepare(self, model: str, version: int | None, *, timeout: float) -> None:
        return

    def kill(self) -> bool:
        return False

    def close(self) -> None:
        return


def devices(settings: ServiceSettings) -> list[str | None]:
    """One entry a worker process: the GPU that it gets, or None."""
    gpus = 0
    if settings.device in ("auto", "cuda"):
        import torch

        gpus = torch.cuda.device_count()
    count = settings.workers if settings.workers is not None else max(1, gpus)
    names = gpu_names(gpus)
    return [names[index % len(names)] if gpus else None for index in range(count)]


def _perform(settings: ServiceSettings, work: Work, tell: Callable[[tuple[str, int, int]], None]) -> Made:
    return _bench(settings).perform(work, lambda stage, done, total: tell((stage, done, total)))


def ran_out_of_memory(failure: CallFailed) -> bool:
    """Whether that is why a call failed: Python, torch on a CPU and torch on a GPU each say it their own way."""
    return failure.kind in ("MemoryError", "OutOfMemoryError") or (
        failure.kind == "RuntimeError" and "allocate memory" in str(failure)
    )


def _prepare(settings: ServiceSettings, model: str, version: int | None) -> None:
    _bench(settings).open_model(model, version)


_kept: Workbench | None = None


def _bench(settings: ServiceSettings) -> Workbench:
    """The child's own, kept between calls so that models and the encoder are loaded once."""
    global _kept
    if _kept is None or _kept.settings != settings:
        # What libraries say here may name a file, as it may in the process that serves.
        route_library_logs(make_log())
        limit_torch_threads()
        _kept = Workbench(settings, ModelRegistry(settings).get)
    return _kept
