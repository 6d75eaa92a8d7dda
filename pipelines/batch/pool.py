"""Pools that work on slides, in processes on this machine or elsewhere, behind one small interface."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

from comel.base.cores import THREADS_VARIABLE, available_cores, threads_wanted
from comel.base.devices import GPUS_VARIABLE, gpu_names
from comel.base.killable import Fault, KillableWorker, WorkerFailure
from comel.base.workers import failure
from comel.errors import ConfigError
from pipelines.batch.claims import Claims
from pipelines.batch.presence import Presence, Present
from pipelines.batch.supervise import Settled, SlideTask, Supervisor
from pipelines.batch.work import Described, SlideWork, describe

__all__ = ["LocalPool", "Pool", "describe_in", "worker_environments"]

_logger = logging.getLogger(__name__)

_CORES_A_WORKER = 8
_STOP_SECONDS = 4.0
# A signal handled by another thread does not wake a thread that waits without a timeout.
_LISTEN_SECONDS = 0.5


class Pool(Protocol):
    """Works on slides; one run uses it from one thread."""

    def describe(self, work: SlideWork) -> Described:
        """Load the encoder in a worker and describe it.

        Raises:
            ConfigError: the encoder, the device or the workers cannot be used.
        """

    def work(self, work: SlideWork, tasks: Sequence[SlideTask]) -> Generator[Settled, None, None]:
        """Work on slides and yield each result, in the order in which they end.

        Raises:
            OutputFull: nothing more can be stored; the other slides were stopped.
        """

    def present(self) -> list[Present]:
        """The processes that work for this run, and their slides."""

    def stop(self) -> None:
        """Start no further slide and kill the work in progress; returns within five seconds."""

    def close(self) -> None:
        """End the workers."""


class LocalPool:
    """Threads of this process, each supervising a killable child process that keeps its encoder loaded.

    Args:
        workers: the number of slides worked on at once; default one per CUDA device that the encoder may
            use, otherwise one per eight cores.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._wanted = workers
        self._workers: list[KillableWorker] = []
        self._presence: Presence | None = None
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def describe(self, work: SlideWork) -> Described:
        """See :class:`Pool`."""
        cores, machine = available_cores(), os.cpu_count() or 1
        count = self._wanted or max(1, cores // _CORES_A_WORKER)
        first = KillableWorker(
            used_bytes=work.worker_bytes, environment=worker_environments(count, 0, cores, machine, os.environ)[0]
        )
        self._workers = [first]
        described = describe_in(first, work)
        if described.devices and self._wanted is None:
            count = described.devices
        for environment in worker_environments(count, described.devices, cores, machine, os.environ)[1:]:
            self._workers.append(KillableWorker(used_bytes=work.worker_bytes, environment=environment))
        return described

    def work(self, work: SlideWork, tasks: Sequence[SlideTask]) -> Generator[Settled, None, None]:
        """See :class:`Pool`."""
        self._stop.clear()
        todo: queue.SimpleQueue[SlideTask] = queue.SimpleQueue()
        for task in tasks:
            todo.put(task)
        settled: queue.SimpleQueue[Settled | BaseException | None] = queue.SimpleQueue()
        claims = Claims(work.state_dir / "claims", expiry=work.expiry)
        presence = self._presence = Presence(work.state_dir / "workers", claims, stall_limit=work.stall_limit)

        def work_off(worker: KillableWorker) -> None:
            supervisor = Supervisor(work, worker, claims, presence, self._stop)
            try:
                while not self._stop.is_set():
                    settled.put(supervisor.settle(todo.get_nowait()))
            except queue.Empty:
                pass
            except BaseException as error:  # raised again in the thread that waits for the slides
                settled.put(error)
            settled.put(None)

        try:
            self._threads = [
                threading.Thread(target=work_off, args=(worker,), name=f"slides-{number}", daemon=True)
                for number, worker in enumerate(self._workers)
            ]
            for thread in self._threads:
                thread.start()
            ended = 0
            while ended < len(self._threads):
                try:
                    found = settled.get(timeout=_LISTEN_SECONDS)
                except queue.Empty:
                    continue
                match found:
                    case None:
                        ended += 1
                    case BaseException() as error:
                        raise error
                    case one:
                        yield one
        finally:
            self.stop()
            presence.close()
            claims.close()

    def present(self) -> list[Present]:
        """See :class:`Pool`."""
        return [self._presence.present()] if self._presence is not None else []

    def stop(self) -> None:
        """See :class:`Pool`."""
        self._stop.set()
        until = time.monotonic() + _STOP_SECONDS
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < until:
            for worker in self._workers:
                worker.kill()
            for thread in self._threads:
                thread.join(0.05)

    def close(self) -> None:
        """See :class:`Pool`."""
        for worker in self._workers:
            worker.close()


def describe_in(worker: KillableWorker, work: SlideWork) -> Described:
    """:func:`pipelines.batch.work.describe` in a worker.

    Raises:
        ConfigError: the encoder or the device cannot be used, or loading the encoder breaks the worker; or it was stopped.
    """
    try:
        described: Described = worker.call(describe, work)
    except WorkerFailure as error:
        if error.trace:
            _logger.warning("%s", error.trace)
        what = f"{work.settings.encoder}: cannot be loaded"
        logged, limited = (
            ConfigError(f"{what} ({error})", remedy) for remedy in ("see the worker's log", "raise --worker-memory")
        )
        said = {Fault.DEFECT: logged, Fault.LIMIT: limited, Fault.STOPPED: ConfigError("the run was stopped")}
        raise failure(error, what, said) from None
    return described


def worker_environments(
    workers: int, devices: int, cores: int, machine: int, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Environment variables for each worker in addition to this process's.

    The cores are divided, so that two workers do not start two threads per core, nor one worker as many threads as the machine
    has cores if it may use fewer. With several CUDA devices each worker sees one, in turn; the first sees all, since it uses
    the first device anyway.

    Args:
        workers: the number of workers.
        devices: the number of CUDA devices that the encoder may use.
        cores: the processor cores that may be used.
        machine: the machine's processor cores.
        environment: this process's variables.
    """
    threads = {THREADS_VARIABLE: str(max(1, cores // workers))}
    if (workers == 1 and cores >= machine) or threads_wanted(environment) is not None:
        threads = {}
    if devices < 2:
        return [threads for _ in range(workers)]
    names = gpu_names(devices, environment)
    seen = [{GPUS_VARIABLE: names[number % len(names)]} for number in range(1, workers)]
    return [threads, *[{**threads, **one} for one in seen]]
