"""Everything behind the routes: the database, the models, the queue with its workers, and housekeeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from comel.errors import ComelError, ConfigError
from service.access.audit import AuditLog
from service.access.keys import private_files, private_folder
from service.db.database import Database, database_url
from service.db.migrate import upgrade
from service.db.pairing import pair
from service.db.tables import Job
from service.errors import is_full
from service.housekeeping import Housekeeper
from service.intake.upload_kinds import FileInspector
from service.intake.uploads import UploadStore
from service.jobs.at_once import AtOnce
from service.jobs.executors import Executor, devices
from service.jobs.pool import JobWorkers
from service.jobs.queue import Accepted, JobQueue
from service.jobs.sources import Inbox
from service.jobs.submission import Submissions
from service.logs import describe_defect
from service.metrics import Metrics
from service.predictions.store import PredictionStore
from service.predictions.work import Made
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings
from service.slides.finder import SlideFiles
from service.slides.folders import SlideFolders
from service.webhooks.outbox import Outbox

__all__ = ["Backend", "hidden", "open_database", "work"]

_PREPARE_SECONDS = 300.0
"""Seconds between attempts to preload a model that could not be loaded."""


class Backend:
    """Everything that a process answering requests needs; :meth:`start` it, and :meth:`stop` it at the end.

    ``executor`` makes the worker processes: it is called with the settings and the process's GPU, if it has its own.

    Raises:
        ConfigError: the database cannot be used.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        models: ModelRegistry,
        *,
        audit: AuditLog,
        metrics: Metrics,
        log: Any,
        executor: Callable[..., Executor] = Executor,
    ) -> None:
        self.settings, self.models = settings, models
        self.database = open_database(settings)
        self.predictions = PredictionStore(self.database, settings.state_dir)
        self.queue = JobQueue(self.database, settings)
        self._inspector = FileInspector(settings)
        self.uploads = UploadStore(self.database, settings, self._inspector.kind)
        folders = SlideFolders(
            settings.slide_roots,
            audit.pseudonym,
            lambda count: log.warning("files in the slide folders are not listed", count=count),
        )
        self.slides = SlideFiles(folders, self.uploads)
        self._at_once = AtOnce(executor(settings), settings)
        executors = [executor(settings, gpu=gpu) for gpu in devices(settings)]
        self.pool = JobWorkers(self.queue, executors, Ended(audit, metrics, log), settings, log=log, hidden=hidden(settings))
        self.submissions = Submissions(
            settings,
            self.database,
            models=models,
            inspector=self._inspector,
            at_once=self._at_once,
            store=self.predictions,
            queue=self.queue,
            pool=self.pool,
            uploads=self.uploads,
            slides=self.slides,
        )
        self.unloadable: dict[str, str] = {}
        self._prepared: dict[str, int] = {}
        self._try_again: dict[str, float] = {}
        self._log = log
        self._others: list[Outbox | Housekeeper] = [
            Outbox(self.database, settings, log=log),
            Housekeeper(self.database, settings, audit=audit, log=log),
        ]

    def start(self) -> None:
        """Start working on jobs, calling webhooks and cleaning up."""
        self.pool.start()
        for thread in self._others:
            thread.start()

    def prepare(self) -> None:
        """Preload the answering models for synchronous predictions, each version once, so that requests need not wait.

        A model that cannot be loaded is tried again after some minutes, without delaying others.
        """
        for name in self.models.names if self.settings.sync_max_instances else ():
            version = self.models.state(name).version
            if version is None or self._prepared.get(name) == version or time.monotonic() < self._try_again.get(name, 0.0):
                continue
            try:
                self._at_once.prepare(name, version)
                self._prepared[name] = version
                self.unloadable.pop(name, None)
            except Exception as error:  # the first request for the version tries again and gets the error
                self._try_again[name] = time.monotonic() + _PREPARE_SECONDS
                self.unloadable[name] = error.what if isinstance(error, ComelError) else type(error).__name__
                self._log.error("a model could not be preloaded", model=name, **describe_defect(error))

    def cancel(self, job: str, *, record: Callable[[], None] = lambda: None) -> Accepted:
        """Cancel a job that has not ended, and remove its accepted files if no worker is working on it.

        ``record`` is called before it takes effect.

        Raises:
            NotFoundError: there is none.
        """
        waits = self.queue.get(job).job.state == "queued"
        cancelled = self.queue.cancel(job, record=record)
        if waits:
            Inbox(self.settings.state_dir).discard(job)
        return cancelled

    def stop(self) -> None:
        """Let running jobs end within the grace time, requeue the others, and close everything."""
        self.pool.stop()
        for thread in self._others:
            thread.stop()
        self._at_once.close()
        self._inspector.close()
        self.database.close()


class Ended:
    """Writes the end of every job into the audit log and this process's metrics.

    Raises:
        ComelError: the audit log cannot be written.
    """

    def __init__(self, audit: AuditLog, metrics: Metrics | None, log: Any) -> None:
        self._audit, self._metrics, self._log = audit, metrics, log

    def __call__(self, job: Job, outcome: str, made: Made | None, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.prediction(job.kind, outcome, seconds, None if made is None else made.instances)
        try:
            self._audit.record(
                "predict",
                key=job.key,
                outcome=outcome,
                request=job.request,
                job=job.id,
                prediction=None if made is None else made.id,
                slide=self._audit.pseudonym(job.slide_id if made is None else made.slide_id),
                model=job.model,
                run=None if made is None else made.run,
                version=job.version,
            )
        except ComelError as error:
            self._log.error(error.what, job=job.id)
            raise


def work(settings: ServiceSettings, log: Any, until: threading.Event) -> None:
    """Work on jobs that other processes accept, until stopped; this is ``comel worker``.

    Raises:
        ConfigError: the database cannot be used.
    """
    with private_files():
        database = open_database(settings)
        audit = AuditLog(settings.state_dir)
        audit.reserve.refill()
        ended = Ended(audit, None, log)
        executors = [Executor(settings, gpu=gpu) for gpu in devices(settings)]
        pool = JobWorkers(JobQueue(database, settings), executors, ended, settings, log=log, hidden=hidden(settings))
        pool.start()
        log.info("worker started")
        until.wait()
        pool.stop()
        database.close()


def open_database(settings: ServiceSettings) -> Database:
    """The settings' database with this version's tables, checked to belong to the state folder.

    Raises:
        ConfigError: it cannot be used, is another state folder's, or a later version of comel made it.
    """
    private_folder(settings.state_dir)
    secret = settings.database_url
    database = Database(database_url(None if secret is None else secret.get_secret_value(), settings.state_dir))
    try:
        upgrade(database)
        pair(database, settings.state_dir)
    except SQLAlchemyError as error:
        database.close()
        why = "the disk is full" if is_full(error) else type(error).__name__
        raise ConfigError(f"the database cannot be upgraded ({why})", "check its disk and permissions") from None
    except BaseException:
        database.close()
        raise
    return database


def hidden(settings: ServiceSettings) -> Iterable[Path]:
    """Folders whose paths are hidden from clients."""
    return (*settings.runs.values(), settings.state_dir, *settings.slide_roots)
