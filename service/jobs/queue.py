"""The queue: rows of the table ``jobs``, and who works on which.

A job is *leased*: a worker that claims it renews the lease (:meth:`JobQueue.beat`) before it expires. A worker that was
killed does not, and another one claims the job. Only the holder of the lease ends the job, so of two workers that both believe
to have it, one gets :class:`LeaseLost`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from comel.errors import ComelError
from service.db.database import Database
from service.db.pages import Page, page_of
from service.db.tables import Delivery, Job, PredictionRow
from service.errors import BusyError, NotFoundError
from service.ids import is_id, new_id
from service.settings import JobSettings

__all__ = ["Accepted", "JobQueue", "LeaseLost", "NewJob"]

_SUBMIT_LOCK = 7_023_102
_CLOCK_SECONDS = 1.0
_LOST = "the job is another worker's, or was cancelled"
_REMEDY = "use an id that POST /v1/predictions or GET /v1/jobs gives"


class LeaseLost(Exception):
    """Another worker has the job, or it was cancelled: this worker's result must not count."""


@dataclass(frozen=True)
class NewJob:
    """A requested job; the fields are those of :class:`service.db.tables.Job`."""

    kind: str
    source: dict[str, Any]
    options: dict[str, Any]
    model: str
    version: int
    slide_id: str
    key: str | None = None
    request: str | None = None
    webhook: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A job, and the number of jobs waiting before it: None if it does not wait."""

    job: Job
    place: int | None


class JobQueue:
    """Accepts, hands out and ends jobs. Safe from several threads and processes."""

    def __init__(self, database: Database, settings: JobSettings) -> None:
        self.database, self.settings = database, settings

    def submit(self, new: NewJob, session: Session | None = None) -> Job:
        """Accept a job. It is kept once this returns, or once ``session`` is committed if one is given.

        Raises:
            BusyError: the queue is full.
        """
        if session is None:
            with self.database.writing() as own:
                return self.submit(new, own)
        self.database.lock(session, _SUBMIT_LOCK)
        waiting = session.execute(select(func.count()).where(Job.state == "queued")).scalar_one()
        if waiting >= self.settings.max_queued_jobs:
            raise BusyError(f"{waiting} jobs wait already", "send it again later", retry_after=self.settings.retry_seconds)
        job = Job(
            id=new.id or new_id(),
            state="queued",
            kind=new.kind,
            source=new.source,
            options=new.options,
            model=new.model,
            version=new.version,
            slide_id=new.slide_id,
            key=new.key,
            request=new.request,
            webhook=new.webhook,
            created=self.database.now(session),
            done=0,
            total=0,
            attempts=0,
        )
        session.add(job)
        session.flush()
        return job

    def claim(self, owner: str, *, given_up: Callable[[Job], None] = lambda job: None) -> Job | None:
        """The oldest job that waits, or whose worker has gone silent, now leased to ``owner``; None if there is none.

        A job whose worker went silent at its last attempt fails here, and ``given_up`` is called with it.
        """
        over: list[Job] = []
        claimed = self._claim(owner, over)
        for job in over:
            given_up(job)
        return claimed

    def _claim(self, owner: str, over: list[Job]) -> Job | None:
        with self.database.writing() as session:
            now = self.database.now(session)
            # One that ends later than a whole lease from now was made before the clock was set back.
            ahead = Job.lease_until > now + func.coalesce(Job.lease_seconds, self.settings.lease_seconds) + _CLOCK_SECONDS
            silent = and_(Job.state == "running", or_(Job.lease_until < now, ahead))
            wanted = select(Job).where(or_(Job.state == "queued", silent)).order_by(Job.created, Job.id).limit(1)
            while (job := session.execute(wanted.with_for_update(skip_locked=True)).scalar_one_or_none()) is not None:
                if job.attempts >= self.settings.max_attempts:
                    self._end(session, job, "failed", now, ComelError(*_worn_out(job.attempts)))
                    session.flush()
                    over.append(job)
                    continue
                job.state, job.lease_owner, job.lease_until = "running", owner, now + self.settings.lease_seconds
                job.lease_seconds = self.settings.lease_seconds
                job.attempts += 1
                job.started = now
                job.stage, job.done, job.total = None, 0, 0
                return job
        return None

    def beat(self, identifier: str, owner: str, progress: tuple[str, int, int] | None = None) -> None:
        """Renew ``owner``'s lease of the job and record its progress: (stage, done, total).

        Raises:
            LeaseLost: the lease is lost.
        """
        with self.database.writing() as session:
            until = self.database.now(session) + self.settings.lease_seconds
            values: dict[str, Any] = {"lease_until": until, "lease_seconds": self.settings.lease_seconds}
            if progress is not None:
                values |= dict(zip(("stage", "done", "total"), progress, strict=True))
            self._held(session, update(Job).where(_mine(identifier, owner)).values(**values))

    def finish(
        self, identifier: str, owner: str, prediction: PredictionRow, *, record: Callable[[], None] = lambda: None
    ) -> None:
        """The job's prediction is in its folder: put it into the index and end the job, both or neither.

        ``record`` is called before it counts; what it raises undoes both.

        Raises:
            LeaseLost: the lease is lost.
        """
        self._end_mine(identifier, owner, "done", None, prediction, record)

    def fail(self, identifier: str, owner: str, error: ComelError) -> None:
        """The job cannot be done; the error's texts are shown to clients.

        Raises:
            LeaseLost: the lease is lost.
        """
        self._end_mine(identifier, owner, "failed", error)

    def put_back(self, identifier: str, owner: str, *, counted: bool) -> None:
        """Let another worker have the job; ``counted`` says whether this attempt counts.

        Raises:
            LeaseLost: the lease is lost.
        """
        fewer = Job.attempts if counted else Job.attempts - 1
        cleared = {"state": "queued", "lease_owner": None, "lease_until": None, "started": None, "stage": None}
        with self.database.writing() as session:
            statement = update(Job).where(_mine(identifier, owner)).values(attempts=fewer, done=0, total=0, **cleared)
            self._held(session, statement)

    def cancel(self, identifier: str, *, record: Callable[[], None] = lambda: None) -> Accepted:
        """Cancel a job that has not ended; one that has stays as it is. Its worker notices at its next beat.

        ``record`` is called before it counts.

        Raises:
            NotFoundError: there is none.
        """
        with self.database.writing() as session:
            job = self._known(session, identifier, changing=True)
            if job.state in ("queued", "running"):
                self._end(session, job, "cancelled", self.database.now(session), None)
                session.flush()
            record()
            return Accepted(job, None)

    def get(self, identifier: str) -> Accepted:
        """A job with its place in the queue.

        Raises:
            NotFoundError: there is none.
        """
        with self.database.reading() as session:
            return self._placed(session, self._known(session, identifier))

    def list(self, *, state: str | None, model: str | None, limit: int, cursor: str | None) -> Page[Accepted]:
        """Jobs, newest first.

        Raises:
            ComelError: the cursor did not come from a page.
        """
        conditions: list[ColumnElement[bool]] = []
        if state is not None:
            conditions.append(Job.state == state)
        if model is not None:
            conditions.append(Job.model == model)
        with self.database.reading() as session:
            page = page_of(session, Job, conditions, limit=limit, cursor=cursor)
            return Page([self._placed(session, job) for job in page.items], page.next)

    def counts(self) -> dict[str, int]:
        """The numbers of waiting and running jobs."""
        with self.database.reading() as session:
            counted = select(Job.state, func.count()).where(Job.state.in_(("queued", "running"))).group_by(Job.state)
            return {"queued": 0, "running": 0} | {row.state: int(row[1]) for row in session.execute(counted)}

    def _known(self, session: Session, identifier: str, *, changing: bool = False) -> Job:
        job = session.get(Job, identifier, with_for_update=changing) if is_id(identifier) else None
        if job is None:
            raise NotFoundError("there is no job of this id", _REMEDY)
        return job

    def _placed(self, session: Session, job: Job) -> Accepted:
        if job.state != "queued":
            return Accepted(job, None)
        older = or_(Job.created < job.created, and_(Job.created == job.created, Job.id < job.id))
        return Accepted(job, session.execute(select(func.count()).where(Job.state == "queued", older)).scalar_one())

    def _end_mine(
        self,
        identifier: str,
        owner: str,
        state: str,
        error: ComelError | None,
        prediction: PredictionRow | None = None,
        record: Callable[[], None] = lambda: None,
    ) -> None:
        with self.database.writing() as session:
            job = session.execute(select(Job).where(_mine(identifier, owner)).with_for_update()).scalar_one_or_none()
            if job is None:
                raise LeaseLost(_LOST)
            if prediction is not None:
                prediction.created = self.database.now(session)
                session.merge(prediction)
            self._end(session, job, state, self.database.now(session), error)
            session.flush()
            record()

    def _end(self, session: Session, job: Job, state: str, now: float, error: ComelError | None) -> None:
        """The end of the job and its webhook delivery are one transaction."""
        job.state, job.finished, job.lease_owner, job.lease_until = state, now, None, None
        job.error = None if error is None else {"what": error.what, "remedy": error.remedy}
        if job.webhook is not None:
            session.add(Delivery(job=job.id, state="due", attempts=0, due=now))

    def _held(self, session: Session, statement: Any) -> None:
        if session.execute(statement.returning(Job.id)).first() is None:
            raise LeaseLost(_LOST)


def _mine(identifier: str, owner: str) -> ColumnElement[bool]:
    return and_(Job.id == identifier, Job.state == "running", Job.lease_owner == owner)


def _worn_out(attempts: int) -> Sequence[str]:
    return (
        f"the worker disappeared at each of {attempts} attempts",
        "the slide may need more memory than the service has; raise it, or send a bag",
    )
