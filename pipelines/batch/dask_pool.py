"""Slides worked on by a Dask cluster.

A task is one slide, and a few hundred bytes go through the scheduler: a manifest's row there, an outcome back. In the Dask
worker a :class:`comel.base.killable.KillableWorker` does the work, so a decoder that crashes ends that child, not the Dask
worker. The death of a Dask worker is therefore not a slide's fault: its slides are assigned again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comel.base.cores import THREADS_VARIABLE, available_cores, threads_wanted
from comel.base.killable import KillableWorker
from comel.errors import ConfigError
from pipelines.batch.claims import Claims
from pipelines.batch.owner import this_process
from pipelines.batch.pool import describe_in
from pipelines.batch.presence import Presence, Present, read_present
from pipelines.batch.runs import marker_path
from pipelines.batch.slide_records import Ledger, SlideRecord, inputs_stamp
from pipelines.batch.supervise import Settled, SlideTask, Supervisor
from pipelines.batch.work import Described, SlideWork

__all__ = ["DaskPool", "child_environment"]

_CONNECT_SECONDS = 30
_STOP_SECONDS = 4.0
_MOST_LOSSES = 3

_logger = logging.getLogger(__name__)


class DaskPool:
    """The workers of a Dask scheduler, which all see the slides and the output folder under the same paths.

    Args:
        address: the scheduler's address, such as ``tcp://10.0.0.1:8786``.
        scheduler_file: the file that ``dask scheduler --scheduler-file`` wrote, instead of the address.

    Raises:
        ConfigError: Dask is not installed, or the scheduler does not answer.
    """

    def __init__(self, address: str | None = None, *, scheduler_file: Path | None = None) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise ConfigError("--engine dask: Dask is not installed", "run: pip install 'comel-mil[cluster]'") from None
        if (address is None) == (scheduler_file is None):
            raise ConfigError("--engine dask: the scheduler is not named", "give --scheduler ADDRESS or --scheduler-file FILE")
        if scheduler_file is not None and not scheduler_file.is_file():
            raise ConfigError(f"{scheduler_file}: no such file", "start the scheduler with --scheduler-file, or check the path")
        where = {"address": address} if address else {"scheduler_file": str(scheduler_file)}
        try:
            self._client = Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False, name="comel-extract")
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{address or scheduler_file}: no Dask scheduler answers ({type(error).__name__})",
                "start one with 'dask scheduler', and check the address and, for tls://, the certificates",
            ) from None
        self._work: SlideWork | None = None
        self._claims: Claims | None = None
        self._threads = 0
        self._pending: dict[Any, SlideTask] = {}

    def describe(self, work: SlideWork) -> Described:
        """See :class:`pipelines.batch.pool.Pool`."""
        if not self._client.scheduler_info()["workers"]:
            _logger.warning("the Dask scheduler has no worker yet; waiting for one")
        described: Described = self._client.submit(_describe, _absolute(work), self._neighbours(), pure=False).result()
        return described

    def work(self, work: SlideWork, tasks: Sequence[SlideTask]) -> Generator[Settled, None, None]:
        """See :class:`pipelines.batch.pool.Pool`."""
        from distributed import KilledWorker, as_completed

        work = self._work = _absolute(work)
        self._claims = Claims(work.state_dir / "claims", expiry=work.expiry)
        losses: Counter[str] = Counter()
        self._threads = self._neighbours()
        futures = as_completed([self._submit(work, task) for task in tasks], loop=self._client.loop)
        try:
            for future in futures:
                task = self._pending.pop(future)
                error = None if future.status == "finished" else future.exception()
                if error is None:
                    yield future.result()
                elif not isinstance(error, KilledWorker):
                    raise error
                elif (times := losses[task.row.slide_id] + 1) < _MOST_LOSSES:
                    losses[task.row.slide_id] = times
                    _logger.warning("the Dask workers that had %s died; it is assigned again", task.row.slide_id)
                    futures.add(self._submit(work, task))
                else:
                    yield _lost(work, task, error)
        finally:
            if self._pending:
                self.stop()
            self._claims.close()

    def present(self) -> list[Present]:
        """See :class:`pipelines.batch.pool.Pool`."""
        if self._work is None or self._claims is None:
            return []
        return read_present(self._work.state_dir / "workers", self._claims)

    def stop(self) -> None:
        """See :class:`pipelines.batch.pool.Pool`."""
        if self._work is None:
            return
        run = self._work.run
        pending, self._pending = list(self._pending), {}
        self._everywhere(lambda: self._client.cancel(pending, force=True))
        self._everywhere(lambda: self._client.run(_stop, run, on_error="ignore"))

    def close(self) -> None:
        """See :class:`pipelines.batch.pool.Pool`."""
        if self._work is not None:
            run = self._work.run
            self._everywhere(lambda: self._client.run(_leave, run, on_error="ignore"))
        self._client.close(timeout=2)

    def _submit(self, work: SlideWork, task: SlideTask) -> Any:
        future = self._client.submit(_settle, work, task, self._threads, pure=False)
        self._pending[future] = task
        return future

    def _neighbours(self) -> int:
        """The largest total number of threads of the Dask workers of one machine."""
        threads: Counter[str] = Counter()
        for address, own in self._client.nthreads().items():
            threads[address.rpartition(":")[0]] += own
        return max(threads.values(), default=0)

    def _everywhere(self, action: Callable[[], object]) -> None:
        """Do something on the cluster without waiting long for a worker that does not answer."""

        def act() -> None:
            with contextlib.suppress(OSError, TimeoutError, ValueError, RuntimeError):
                action()

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(_STOP_SECONDS / 2)


def _lost(work: SlideWork, task: SlideTask, error: Exception) -> Settled:
    """A slide whose Dask workers died each time, for example because it needs more memory than their machines have."""
    outcome = SlideRecord(
        task.row.slide_id,
        "failed",
        work.key,
        inputs_stamp(task.row),
        stage="worker",
        reason=f"all Dask workers that took it died ({type(error).__name__})",
        remedy="check the workers' logs; most often their machines have too little memory",
        host=this_process().host,
        ended=time.time(),
    )
    Ledger(work.state_dir / "outcomes").write(outcome)
    return Settled(task, "failed", outcome)


def _absolute(work: SlideWork) -> SlideWork:
    """The work with paths that mean the same in whatever folder a Dask worker was started."""
    name = work.settings.encoder
    if ".py:" in name:
        file, _, attribute = name.rpartition(":")
        name = f"{Path(file).absolute()}:{attribute}"
    elif (place := name.partition(":")[2]) and Path(place).exists():
        name = f"{name.partition(':')[0]}:{Path(place).absolute()}"
    settings = work.settings.model_copy(update={"encoder": name})
    return dataclasses.replace(work, settings=settings, out=work.out.absolute())


# From here on: code that runs in a Dask worker, which keeps a run's state from slide to slide.


class _Station:
    """A run in a Dask worker's process: its presence, and a killable child for each of the worker's threads."""

    def __init__(self, work: SlideWork, environment: dict[str, str]) -> None:
        self._environment = environment
        self._claims = Claims(work.state_dir / "claims", expiry=work.expiry)
        self._presence = Presence(work.state_dir / "workers", self._claims, stall_limit=work.stall_limit)
        self._lock, self._workers, self._used_bytes = threading.Lock(), dict[int, KillableWorker](), work.worker_bytes
        self._stop = threading.Event()

    def worker(self) -> KillableWorker:
        with self._lock:
            worker = KillableWorker(used_bytes=self._used_bytes, environment=self._environment)
            return self._workers.setdefault(threading.get_ident(), worker)

    def settle(self, work: SlideWork, task: SlideTask) -> Settled:
        return Supervisor(work, self.worker(), self._claims, self._presence, self._stop).settle(task)

    def stop(self) -> None:
        self._stop.set()
        with self._lock:
            for worker in self._workers.values():
                worker.kill()

    def close(self) -> None:
        self.stop()
        for worker in self._workers.values():
            worker.close()  # waits for the killed child
        self._presence.close()
        self._claims.close()


_stations: dict[str, _Station] = {}
_stations_lock = threading.Lock()


def _station(work: SlideWork, neighbours: int) -> _Station:
    from distributed import get_worker

    if not marker_path(work.state_dir, work.run).is_file():
        raise ConfigError(
            f"{work.out}: is not the same folder on the Dask worker's machine",
            "put slides and output on a file system that all workers see under the same path",
        )
    with _stations_lock:
        if work.run not in _stations:
            own, cores, machine = get_worker().state.nthreads, available_cores(), os.cpu_count() or 1
            _stations[work.run] = _Station(work, child_environment(own, neighbours, cores, machine, os.environ))
        return _stations[work.run]


def child_environment(own: int, neighbours: int, cores: int, machine: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a child has beside those of its Dask worker: its share of the cores.

    Args:
        own: threads of this Dask worker, each with a child.
        neighbours: those of all Dask workers of this machine together.
        cores: processor cores that may be used. Where they are fewer than the machine has, they are taken to be this worker's
            alone, as those of a batch system's job or of a pod are.
        machine: those that there are.
        environment: the Dask worker's. That it computes with one thread says nothing: Dask sets that itself.
    """
    if threads_wanted(environment) not in (None, 1):
        return {}
    sharers = own if cores < machine else max(own, neighbours)
    return {THREADS_VARIABLE: str(max(1, cores // sharers))}


def _describe(work: SlideWork, neighbours: int) -> Described:
    return describe_in(_station(work, neighbours).worker(), work)


def _settle(work: SlideWork, task: SlideTask, neighbours: int) -> Settled:
    return _station(work, neighbours).settle(work, task)


def _stop(run: str) -> None:
    if (station := _stations.get(run)) is not None:
        station.stop()


def _leave(run: str) -> None:
    with _stations_lock:
        station = _stations.pop(run, None)
    if station is not None:
        station.close()
