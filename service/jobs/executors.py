"""Executors do a job's work in a child process that can be killed."""

from __future__ import annotations

import os
from collections.abc import Callable

from comel.base.cores import limit_torch_threads
from comel.base.devices import GPUS_VARIABLE, gpu_names
from comel.base.workers import WorkerPool
from service.logs import make_log, route_library_logs
from service.predictions.work import Made, Tell, Work, Workbench
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings

__all__ = ["Executor", "devices"]


class Executor:
    """A child process with limited memory and time; slides and bags are decoded in it and nowhere else.

    Safe from several threads; their work is done one after the other.

    Args:
        settings: the service's.
        gpu: the GPU that the process sees, None to see all.
    """

    def __init__(self, settings: ServiceSettings, *, gpu: str | None = None) -> None:
        self._settings = settings
        environment = {} if gpu is None else {GPUS_VARIABLE: gpu}
        self._pool = WorkerPool(memory_bytes=settings.worker_memory_bytes, environment=environment)

    @property
    def pid(self) -> int | None:
        """Of the process, None if it is not running."""
        return next(iter(self._pool.pids), None)

    def perform(self, work: Work, tell: Tell, *, timeout: float, wait: float | None = None) -> Made:
        """See :meth:`service.predictions.work.Workbench.perform`; and the exceptions of
        :meth:`comel.base.workers.WorkerPool.call`.

        Args:
            work: the work.
            tell: called with its progress.
            timeout: most seconds that it may take.
            wait: most seconds until it begins.
        """
        made = self._pool.call(_perform, self._settings, work, timeout=timeout, wait=wait, tell=lambda message: tell(*message))
        assert isinstance(made, Made)
        return made

    def prepare(self, model: str, version: int | None, *, timeout: float, wait: float | None = None) -> int:
        """Load a model ahead of work for it, which costs nothing if it is loaded; as :meth:`perform`.

        Returns:
            the process that has it now.
        """
        return int(self._pool.call(_prepare, self._settings, model, version, timeout=timeout, wait=wait))

    def kill(self) -> None:
        """End the work under way."""
        self._pool.kill()

    def close(self) -> None:
        """End the process for good; what is under way or waits ends with it."""
        self._pool.close()


def devices(settings: ServiceSettings) -> list[str | None]:
    """One entry per worker process: its GPU, or None."""
    gpus = 0
    if settings.device in ("auto", "cuda"):
        import torch

        gpus = torch.cuda.device_count()
    count = settings.workers if settings.workers is not None else max(1, gpus)
    names = gpu_names(gpus)
    return [names[index % len(names)] if gpus else None for index in range(count)]


def _perform(settings: ServiceSettings, work: Work, tell: Callable[[tuple[str, int, int]], None]) -> Made:
    return _bench(settings).perform(work, lambda stage, done, total: tell((stage, done, total)))


def _prepare(settings: ServiceSettings, model: str, version: int | None) -> int:
    _bench(settings).open_model(model, version)
    return os.getpid()


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
