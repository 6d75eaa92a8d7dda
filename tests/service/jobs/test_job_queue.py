"""The queue on SQLite and PostgreSQL: who gets which job, what survives, and what ends once."""

from __future__ import annotations

import gzip
import json
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
from service.db.pairing import join, pair
from service.db.tables import Base, Delivery, Job, PredictionRow, Upload
from service.errors import BusyError, NotFoundError
from service.intake.bodies import safe_name
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


def test_a_lease_of_before_the_clock_was_set_back_is_over(database: Database) -> None:  # noqa: F811
    """Its worker was killed; without this the job would wait until the clock is where it was."""
    queue = queue_of(database, lease_seconds=30)
    job = queue.submit(a_job())
    assert queue.claim("a") is not None
    for hours, over in ((0, False), (1, True), (100_000, True)):
        with database.writing() as session:
            until = database.now(session) + 30 + hours * 3600
            session.execute(update(Job).where(Job.id == job.id).values(lease_until=until, attempts=1))
        again = queue.claim("b")
        assert (again is not None) == over
    # A worker that is alive says so by the clock as it is now, and keeps its job.
    queue.beat(job.id, "b")
    assert queue.claim("c") is None
    # A worker of longer leases is not silent because of that.
    with database.writing() as session:
        far = database.now(session) + 600
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=far, lease_seconds=600.0))
    assert queue.claim("c") is None


def test_what_is_recorded_first_may_undo_the_end_of_a_job(database: Database) -> None:  # noqa: F811
    queue = queue_of(database)
    job = queue.submit(a_job())
    claimed = queue.claim("a")
    assert claimed is not None

    def fail() -> None:
        raise ComelError("the audit log is full")

    with pytest.raises(ComelError, match="full"):
        queue.finish(job.id, "a", a_row(claimed), record=fail)
    with database.reading() as session:
        assert session.get(PredictionRow, job.id) is None
    with pytest.raises(ComelError, match="full"):
        queue.cancel(job.id, record=fail)
    assert queue.get(job.id).job.state == "running"


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
    (tmp_path / "state").mkdir()
    queue = queue_of(database)
    jobs = [queue.submit(a_job(f"é{index}")) for index in range(3)]
    claimed = queue.claim("a")
    assert claimed is not None
    queue.finish(claimed.id, "a", a_row(claimed))
    join(database, tmp_path / "state")
    assert backup(database, tmp_path / "b.gz") == 5
    other = Database(other_url)
    used = Database(other_url)
    upgrade(used)
    join(used, tmp_path)  # a service was started with it once, and kept nothing
    used.close()
    assert restore(other, tmp_path / "b.gz") == 5
    pair(other, tmp_path / "state")  # whose it is came with the backup
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


def test_a_backup_of_an_earlier_version_is_restored(url: str, tmp_path: Path) -> None:  # noqa: F811
    row = {
        "id": "1" * 32, "slide_id": "s", "source": {"path": "/a.svs"}, "label": None, "confidence": None, "model": "m",
        "version": 1, "created": 1.0, "size": 9,
    }  # fmt: skip
    upload = {
        "id": "2" * 32, "name": "a" * 128, "size": 9, "sha256": None, "offset": 0, "kind": None, "key": None, "created": 1.0,
        "expires": 2.0,
    }  # fmt: skip
    lines: list[dict[str, Any]] = [{"format": 1, "revision": "0001"}]
    lines += [{"table": "predictions", "row": row}, {"table": "uploads", "row": upload}, {"rows": 2}]
    (tmp_path / "old.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    database = Database(url)  # noqa: F811
    assert restore(database, tmp_path / "old.gz") == 2
    assert revision(database) == head()
    with database.reading() as session:
        assert session.get_one(PredictionRow, "1" * 32).key is None
        assert session.get_one(Upload, "2" * 32).name == "a" * 128
    database.close()


def test_a_database_of_the_first_version_is_brought_up_to_date(url: str) -> None:  # noqa: F811
    database = Database(url)  # noqa: F811
    upgrade(database, "0001")
    with database.writing() as session:
        values = {"i": "1" * 32, "s": "{}"}
        session.execute(
            text(
                "INSERT INTO jobs"
                " (id, state, kind, source, options, model, version, slide_id, key, created, done, total, attempts)"
                " VALUES (:i, 'done', 'bag', :s, :s, 'm', 1, 's', 'ward-7', 1, 0, 0, 1)"
            ),
            values,
        )
        session.execute(
            text(
                "INSERT INTO predictions (id, slide_id, source, model, version, created, size)"
                " VALUES (:i, 's', :s, 'm', 1, 1, 9)"
            ),
            values,
        )
    upgrade(database)
    with database.reading() as session:
        assert session.get_one(PredictionRow, "1" * 32).key == "ward-7"
        assert compare_metadata(MigrationContext.configure(session.connection()), Base.metadata) == []
    database.close()


LONGEST: dict[str, Any] = {
    "slide_id": "s" * 255, "label": "l" * 5000, "name": "n" * 197, "key": "k" * 64, "model": "m" * 64, "answer": "a" * 200,
    "request": "r" * 64, "webhook": "https://" + "w" * 1990,
}  # fmt: skip


def test_the_longest_names_fit_the_columns(database: Database) -> None:  # noqa: F811
    """PostgreSQL refuses what is longer than a column; SQLite would take it."""
    said = {name: LONGEST[name] for name in ("slide_id", "key", "model", "request", "webhook")}
    queue = queue_of(database)
    job = queue.submit(NewJob("bag", {"bag": "b"}, {}, said.pop("model"), 10**9, said.pop("slide_id"), **said))
    row = a_row(job)
    row.label, row.key, row.created, row.size = LONGEST["label"], LONGEST["key"], 1.0, 1 << 60
    name = safe_name("n" * 4000 + "." + "e" * 4000)
    assert len(name) == len(LONGEST["name"])
    with database.writing() as session:
        session.add(row)
        session.add(Upload(id="2" * 32, name=name, size=1 << 53, offset=0, key=LONGEST["key"], created=1.0, expires=2.0))
        session.add(Delivery(job=job.id, state="given up", attempts=1, due=1.0, answer=LONGEST["answer"]))


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
