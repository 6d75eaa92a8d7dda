"""The queue on SQLite and PostgreSQL: who gets which job, what survives, and what ends once."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text, update

from comel.errors import ComelError, ConfigError
from service.db.backup import backup, restore
from service.db.database import Database
from service.db.migrate import head, revision, upgrade
from service.db.tables import Base, Delivery, Job, PredictionRow
from service.errors import BusyError, NotFoundError
from service.jobs.queue import JobQueue, LeaseLost, NewJob
from service.settings import JobSettings
from tests.service.databases import database, other_url, postgres, url  # noqa: F401


def queue_of(database: Database, **settings: Any) -> JobQueue:  # noqa: F811
    return JobQueue(database, JobSettings(**settings))


def a_job(name: str = "slide", **more: Any) -> NewJob:
    return NewJob("bag", {"bag": f"{name}.h5"}, {"task": None}, "demo", 3, name, **more)


def a_row(job: Job) -> PredictionRow:
    return PredictionRow(
        id=job.id, slide_id=job.slide_id, source=job.source, label="a/b", confidence=0.5, model="demo", version=3, size=9
    )


def expire(database: Database, job: Job) -> None:  # noqa: F811
    """As if the job's worker had been silent for long."""
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=1.0))


def test_jobs_are_claimed_in_order_and_their_place_is_known(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    jobs = [queue.submit(a_job(f"s{index}")) for index in range(3)]
    assert [queue.get(job.id).place for job in jobs] == [0, 1, 2]
    first = queue.claim("a")
    assert first is not None
    assert (first.id, first.state, first.attempts) == (jobs[0].id, "running", 1)
    assert [queue.get(job.id).place for job in jobs] == [None, 0, 1]
    assert queue.counts() == {"queued": 2, "running": 1}
    queue.beat(first.id, "a", ("encode", 5, 9))
    assert (queue.get(first.id).job.stage, queue.get(first.id).job.done, queue.get(first.id).job.total) == ("encode", 5, 9)
    queue.finish(first.id, "a", a_row(first))
    assert queue.get(first.id).job.state == "done"


def test_a_job_is_claimed_by_one_worker_only(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    wanted = {queue.submit(a_job()).id for _ in range(20)}

    def drain(owner: str) -> list[str]:
        claimed = []
        while (job := queue.claim(owner)) is not None:
            claimed.append(job.id)
        return claimed

    with ThreadPoolExecutor(4) as pool:
        claimed = [identifier for part in pool.map(drain, "abcd") for identifier in part]
    assert len(claimed) == 20
    assert set(claimed) == wanted


def test_a_silent_workers_job_is_claimed_again_and_the_late_worker_changes_nothing(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    job = queue.submit(a_job())
    assert queue.claim("a") is not None
    assert queue.claim("b") is None
    expire(database, job)
    again = queue.claim("b")
    assert again is not None
    assert (again.id, again.attempts) == (job.id, 2)
    too_late: list[Callable[[], Any]] = [
        lambda: queue.beat(job.id, "a"),
        lambda: queue.finish(job.id, "a", a_row(again)),
        lambda: queue.fail(job.id, "a", ComelError("no")),
        lambda: queue.put_back(job.id, "a", counted=True),
    ]
    for late in too_late:
        with pytest.raises(LeaseLost):
            late()
    queue.finish(job.id, "b", a_row(again))
    with pytest.raises(LeaseLost):
        queue.finish(job.id, "b", a_row(again))


def test_a_job_that_wears_out_its_workers_fails(database: Database) -> None:  # noqa: F811
    queue = queue_of(database, max_attempts=2)
    job = queue.submit(a_job())
    for owner in "ab":
        assert queue.claim(owner) is not None
        expire(database, job)
    told: list[Job] = []
    assert queue.claim("c", given_up=told.append) is None
    assert [one.id for one in told] == [job.id]
    ended = queue.get(job.id).job
    assert ended.state == "failed"
    assert ended.error is not None
    assert "each of 2 attempts" in ended.error["what"]


def test_what_is_put_back_counts_or_not(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    job = queue.submit(a_job())
    for counted, attempts in ((False, 0), (True, 1)):
        assert queue.claim("a") is not None
        queue.put_back(job.id, "a", counted=counted)
        assert (queue.get(job.id).job.state, queue.get(job.id).job.attempts) == ("queued", attempts)


def test_cancelling(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    waiting, running = queue.submit(a_job()), queue.submit(a_job())
    assert queue.cancel(waiting.id).job.state == "cancelled"
    claimed = queue.claim("a")
    assert claimed is not None
    assert claimed.id == running.id
    assert queue.cancel(running.id).job.state == "cancelled"
    assert queue.cancel(running.id).job.state == "cancelled"
    with pytest.raises(LeaseLost):
        queue.beat(running.id, "a")
    for unknown in ("0" * 32, "\x00", "x"):
        with pytest.raises(NotFoundError):
            queue.cancel(unknown)


def test_a_full_queue_takes_no_more(database: Database) -> None:  # noqa: F811
    queue = queue_of(database, max_queued_jobs=2, retry_seconds=7)
    queue.submit(a_job())
    queue.submit(a_job())
    with pytest.raises(BusyError) as raised:
        queue.submit(a_job())
    assert raised.value.retry_after == 7
    assert queue.claim("a") is not None
    queue.submit(a_job())


def test_pages_show_every_job_once_newest_first(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    made = [queue.submit(a_job()).id for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = queue.list(state=None, model=None, limit=3, cursor=cursor)
        seen += [accepted.job.id for accepted in page.items]
        queue.submit(a_job())  # comes meanwhile, and shifts nothing
        if (cursor := page.next) is None:
            break
    assert seen == made[::-1]
    assert queue.list(state="done", model=None, limit=3, cursor=None).items == []
    for wrong in ("x", "", "bm9uZQ==", "MS4wIHg=", "é"):
        with pytest.raises(ComelError, match="cursor"):
            queue.list(state=None, model=None, limit=3, cursor=wrong)


def test_the_end_of_a_job_and_its_webhook_are_written_together(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    job = queue.submit(a_job(webhook="https://a.example/"))
    queue.claim("a")
    queue.fail(job.id, "a", ComelError("what", "do"))
    with database.reading() as session:
        delivery = session.get(Delivery, job.id)
    assert delivery is not None
    assert (delivery.state, delivery.attempts) == ("due", 0)


def test_the_migrations_make_the_tables_that_the_program_has(database: Database) -> None:  # noqa: F811
    assert revision(database) == head()
    upgrade(database)
    with database.reading() as session:
        assert compare_metadata(MigrationContext.configure(session.connection()), Base.metadata) == []


def test_a_newer_database_is_refused(database: Database) -> None:  # noqa: F811
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="later version of comel"):
        upgrade(database)


def test_a_backup_of_either_kind_is_restored_into_either_kind(
    database: Database,  # noqa: F811
    other_url: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    queue = queue_of(database)
    jobs = [queue.submit(a_job(f"é{index}")) for index in range(3)]
    claimed = queue.claim("a")
    assert claimed is not None
    queue.finish(claimed.id, "a", a_row(claimed))
    assert backup(database, tmp_path / "b.gz") == 4
    other = Database(other_url)
    assert restore(other, tmp_path / "b.gz") == 4
    for job in jobs:
        was, now = queue.get(job.id).job, queue_of(other).get(job.id).job
        assert [getattr(was, column.name) for column in Job.__table__.columns] == [
            getattr(now, column.name) for column in Job.__table__.columns
        ]
    assert queue_of(other).claim("b") is not None
    for filled in (database, other):
        with pytest.raises(ConfigError, match="not empty"):
            restore(filled, tmp_path / "b.gz")
    other.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", gzip.compress(b""), gzip.compress(b'{"format": 1, "revision": "0001"}\n')],
    ids=["empty", "text", "nothing inside", "a header alone"],  # a gzip file has the time in it
)
def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.gz").write_bytes(content)
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(ConfigError, match="backup"):
        restore(empty, tmp_path / "b.gz")
    assert queue_of(empty).counts() == {"queued": 0, "running": 0}
    empty.close()


@pytest.mark.parametrize(
    "wrong", ["mysql://a/b", "nothing", "postgresql://nobody@127.0.0.1:1/none", "sqlite:////missing/x/y.db"]
)
def test_a_database_that_cannot_be_used_is_said_without_its_password(wrong: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Database(wrong.replace("nobody@", "nobody:secret@")).check()
    assert "secret" not in str(raised.value)
