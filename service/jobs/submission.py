"""Requests for predictions: a small bag is predicted at once, everything else becomes a job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from comel.base.files import sha256_of_file, sha256_of_json
from comel.errors import ConfigError
from service.db.database import Database
from service.errors import ConflictError, NotFoundError
from service.ids import new_id
from service.intake.quotas import Quotas
from service.intake.upload_kinds import FileInspector
from service.intake.uploads import UploadStore
from service.jobs.at_once import AtOnce
from service.jobs.idempotency import Reservation, Reservations
from service.jobs.pool import JobWorkers
from service.jobs.queue import Accepted, JobQueue, NewJob
from service.jobs.sources import Inbox, SourceRequest
from service.paths import remove_folder
from service.predictions.folder import Stored
from service.predictions.store import PredictionStore, row_of
from service.predictions.work import Made, Work
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings
from service.slides.finder import SlideFiles
from service.webhooks.addresses import check_url

__all__ = ["Asked", "Submissions"]

Record = Callable[[Made | NewJob], None]
"""Called with a request's outcome before it takes effect; an exception cancels it."""


@dataclass(frozen=True)
class Asked:
    """A client's wishes besides the bag or the slide; None if not stated.

    Attributes:
        key: name of its API key.
        request: id of the request.
        idempotency_key: makes the same request sent again lead to the same result.
        as_job: whether it always wants a job.
    """

    model: str | None = None
    task: str | None = None
    mpp: float | None = None
    assume_encoder: str | None = None
    webhook: str | None = None
    key: str | None = None
    request: str | None = None
    idempotency_key: str | None = None
    as_job: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What changes the prediction."""
        return {"task": self.task, "mpp": self.mpp, "assume_encoder": self.assume_encoder}


class Submissions:
    """Takes requests. All methods block and are safe from several threads."""

    def __init__(
        self,
        settings: ServiceSettings,
        database: Database,
        *,
        models: ModelRegistry,
        inspector: FileInspector,
        at_once: AtOnce,
        store: PredictionStore,
        queue: JobQueue,
        pool: JobWorkers,
        uploads: UploadStore,
        slides: SlideFiles,
    ) -> None:
        self._settings, self._database = settings, database
        self._models, self._inspector, self._at_once = models, inspector, at_once
        self._store, self._queue, self._pool = store, queue, pool
        self._uploads, self._slides = uploads, slides
        self._inbox, self._reservations, self._quotas = Inbox(settings.state_dir), Reservations(database), Quotas(settings)
        self._under_way: set[str] = set()

    def bag(self, path: Path, asked: Asked, record: Record) -> Stored | Accepted:
        """Predict from a received bag at once, or accept a job for it; ``path`` may be moved away.

        Raises:
            BusyError: the queue is full.
            ConflictError: the idempotency key came with another request, or with this one that is under way.
            ComelError: the bag, the model, the task or the webhook cannot be used, or the key's quota is used up.
        """
        model, version = self._model(asked)
        # The name is included: a bag that does not state its slide is named after it.
        reservation = self._reservation(asked, lambda: {"bag": sha256_of_file(path), "name": path.name})
        if (made := self._made(reservation)) is not None:
            return made
        size = path.stat().st_size
        self._check_quota(asked, size)
        instances = self._inspector.instances(path)
        if asked.as_job or asked.webhook is not None or instances > self._settings.sync_max_instances:
            new = self._new_job(asked, "bag", path.stem, model, version)
            source = self._inbox.accept(path, new.id or "") | {"bytes": size}
            return self._accept(replace(new, source=source), reservation, record)
        return self._predict(path, asked, model, version, reservation, record)

    def file(self, source: SourceRequest, asked: Asked, record: Record) -> Accepted:
        """Accept a job for a slide of the slide folders, or for an upload.

        Raises:
            NotFoundError: there is no such slide, upload or model.
            BusyError, ConflictError, ComelError: see :meth:`bag`.
        """
        model, version = self._model(asked)
        reservation = self._reservation(asked, lambda: source.model_dump())
        if (made := self._made(reservation)) is not None:
            assert isinstance(made, Accepted)  # another body has another digest
            return made
        if source.upload is not None:
            upload = self._uploads.get(source.upload)
            if upload.kind is None:
                raise ConflictError("the upload is not complete", f"send the rest from offset {upload.offset} on")
            kind, name, place = upload.kind, Path(upload.name).stem, {"upload": upload.id, "name": upload.name}
        else:
            path = self._slides.find(source.slide or "")
            kind, name, place = "slide", path.name if path.is_dir() else path.stem, {"path": str(path)}
        self._check_quota(asked, 0)
        return self._accept(replace(self._new_job(asked, kind, name, model, version), source=place), reservation, record)

    def _check_quota(self, asked: Asked, size: int) -> None:
        with self._database.reading() as session:
            self._quotas.check(session, asked.key, size)

    def _model(self, asked: Asked) -> tuple[str, int]:
        """Name and version of the model that will answer, after checking that it can do what is requested."""
        if asked.webhook is not None:
            check_url(asked.webhook, self._settings)
        name = asked.model or self._models.names[0]
        predictor = self._models.get(name)
        known = [str(task["name"]) for task in predictor.tasks]
        if asked.task is not None and asked.task not in known:
            raise ConfigError(f"the model has no task '{asked.task}'", f"it knows {', '.join(known)}")
        return name, predictor.version

    def _predict(
        self, path: Path, asked: Asked, model: str, version: int, reservation: Reservation | None, record: Record
    ) -> Stored:
        identifier, source = new_id(), {"bag": path.name}
        origin = {"model": model, "source": source, "key": asked.key}
        self._under_way.add(identifier)
        try:
            if reservation is not None:
                try:
                    with self._database.writing() as session:
                        self._reservations.reserve(reservation, "prediction", identifier, session)
                except IntegrityError:
                    reservation = None  # another request's, not to be released
                    raise _under_way() from None
            work = Work(identifier, "bag", path, path.stem, model, version, asked.task, asked.mpp, asked.assume_encoder, origin)
            made = self._at_once.perform(work)
            self._store.add(row_of(made, model, source, asked.key), record=lambda: record(made))
        except BaseException:
            remove_folder(self._store.folder / identifier)
            if reservation is not None:
                with contextlib.suppress(SQLAlchemyError):  # it is forgotten after a day
                    self._reservations.release(reservation)
            raise
        finally:
            self._under_way.discard(identifier)
        return self._store.load(identifier)

    def _new_job(self, asked: Asked, kind: str, slide_id: str, model: str, version: int) -> NewJob:
        about = {"key": asked.key, "request": asked.request, "webhook": asked.webhook, "id": new_id()}
        return NewJob(kind, {}, asked.options, model, version, slide_id, **about)

    def _accept(self, new: NewJob, reservation: Reservation | None, record: Record) -> Accepted:
        """The job and its idempotency key are committed together, or neither is."""
        assert new.id is not None
        try:
            with self._database.writing() as session:
                if reservation is not None:
                    self._reservations.reserve(reservation, "job", new.id, session)
                self._queue.submit(new, session)
                record(new)
        except BaseException as error:
            self._inbox.discard(new.id)
            made = self._made(reservation) if isinstance(error, IntegrityError) else None
            if isinstance(made, Accepted):
                return made
            raise
        self._pool.wake()
        return self._queue.get(new.id)

    def _reservation(self, asked: Asked, content: Any) -> Reservation | None:
        if asked.idempotency_key is None:
            return None
        said = {"content": content(), "model": asked.model, "webhook": asked.webhook, **asked.options}
        return Reservation(asked.key or "", asked.idempotency_key, sha256_of_json(said))

    def _made(self, reservation: Reservation | None) -> Stored | Accepted | None:
        """The result of an earlier request with the same key; None if this is the first, or the result was deleted."""
        made = None if reservation is None else self._reservations.made(reservation)
        if reservation is None or made is None:
            return None
        kind, identifier = made
        if kind == "job":
            with contextlib.suppress(NotFoundError):
                return self._queue.get(identifier)
        else:
            if identifier in self._under_way:
                raise _under_way()
            with contextlib.suppress(NotFoundError):
                return self._store.load(identifier)
            # It was deleted since, or its process ended before making it.
        self._reservations.release(reservation)
        return None


def _under_way() -> ConflictError:
    return ConflictError("the first request with this Idempotency-Key is under way", "send it again in a few seconds")
