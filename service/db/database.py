"""A connection to the database. Two kinds: SQLite for one machine, PostgreSQL for several.

Once the database is bound to a state folder (:meth:`Database.bind`), every new connection is checked to
still lead there: a file that was deleted, replaced or emptied while the service runs is an error, never a fresh start.

SQLite runs in WAL mode, so readers never wait for a writer; a writing transaction takes the write lock when it begins
(``BEGIN IMMEDIATE``), so it never fails half way because another writer was faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from comel.errors import ConfigError

__all__ = ["Database", "WrongDatabase", "database_url"]

BUSY_SECONDS = 30
_WRITES = "comel_writes"
_WHOSE = "SELECT id FROM installation"


class WrongDatabase(OperationalError):
    """The database is gone, or does not belong to the state folder; nothing may be concluded from what it lacks."""

    def __init__(self) -> None:
        super().__init__(_WHOSE, {}, Exception("it is not the database of this state folder"))


class Database:
    """Transactions on one database.

    Args:
        url: SQLAlchemy's form, ``sqlite:////folder/comel.db`` or ``postgresql+psycopg://user@host/name``.

    Raises:
        ConfigError: the URL or what it needs cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            kind = parsed.get_backend_name()
            if kind == "postgresql" and parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if kind not in ("sqlite", "postgresql"):
                raise ConfigError(f"databases of kind '{kind}' are not supported", "give sqlite:///... or postgresql://...")
            options: dict[str, Any] = {"pool_pre_ping": True} if kind == "postgresql" else {}
            self.engine = create_engine(parsed, **options)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            # A URL may contain a password, so it is not repeated.
            raise ConfigError(
                f"the database's URL cannot be used ({type(error).__name__})",
                "give sqlite:///FILE, or postgresql://USER@HOST/NAME with comel-mil[postgres] installed",
            ) from None
        self.sqlite = kind == "sqlite"
        self._id: str | None = None
        self._file = Path(parsed.database) if self.sqlite and parsed.database else None
        if self.sqlite:
            _prepare_sqlite(self.engine)
        self._watch()
        self._writer = self.engine.execution_options(**{_WRITES: True})

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def bind(self, identifier: str) -> None:
        """From now on accept connections only to the database with this id (:mod:`service.db.pairing`)."""
        self._id = identifier

    def expect(self, session: Session) -> None:
        """Make sure, within a transaction, that this is the database it was bound to.

        Raises:
            WrongDatabase: it is another one, or was emptied.
        """
        if self._id is not None and [row[0] for row in session.execute(text(_WHOSE))] != [self._id]:
            raise WrongDatabase

    def check(self) -> None:
        """Raise :class:`ConfigError` unless the database answers, and is the one that it was bound to."""
        try:
            with self.reading() as session:
                session.execute(text("SELECT 1"))
                self.expect(session)
        except WrongDatabase:
            raise ConfigError(
                "the database no longer belongs to the state folder", "restore it, and start the service again"
            ) from None
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).splitlines() or [""]
            raise ConfigError(
                f"the database does not answer ({reason[0][:160]})", "check its URL, and whether it is running"
            ) from None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that changes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed at the end of the block, or rolled back if it raises."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def now(self, session: Session) -> float:
        """Seconds since 1970 by the database's clock, so that leases on several machines are comparable."""
        if self.sqlite:
            return time.time()
        return float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def lock(self, session: Session, number: int) -> None:
        """Keep other writers of the same number out until the transaction ends; SQLite has one writer anyway."""
        if not self.sqlite:
            session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    def _watch(self) -> None:
        """Check each connection when it is made, and SQLite's file each time a connection is used."""
        driver = self.engine.dialect.loaded_dbapi

        @event.listens_for(self.engine, "do_connect")
        def connecting(*_: Any) -> None:
            # SQLite would make a new, empty file.
            if self._id is not None and self._file is not None and not self._file.exists():
                raise driver.OperationalError("the database's file is gone")

        @event.listens_for(self.engine, "connect")
        def connected(connection: Any, record: Any) -> None:
            record.info["file"] = self._stamp()
            if self._id is None:
                return
            try:
                cursor = connection.cursor()
                cursor.execute(_WHOSE)
                found = [row[0] for row in cursor.fetchall()]
                cursor.close()
                connection.rollback()  # some statements must be the first of a transaction
            except driver.Error:
                found = []
            if found != [self._id]:
                raise driver.OperationalError("it is not the database of this state folder")

        @event.listens_for(self.engine, "checkout")
        def taken(connection: Any, record: Any, proxy: Any) -> None:
            # Data written to a deleted file is lost with the last process that has it open.
            if self._file is not None and record.info.get("file") != self._stamp():
                raise DisconnectionError

    def _stamp(self) -> tuple[int, int] | None:
        try:
            about = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if about is None else (about.st_dev, about.st_ino)


def database_url(url: str | None, state_dir: Path) -> str:
    """``url``, or the URL of the SQLite file in the state folder if none is set."""
    return url or f"sqlite:///{(state_dir / 'comel.db').absolute()}"


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        # Otherwise the driver begins transactions by itself, and only at the first change.
        connection.isolation_level = None
        for setting in (
            f"busy_timeout={BUSY_SECONDS * 1000}",
            "journal_mode=WAL",
            # FULL, so that an accepted job survives a power cut, not only a killed process.
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def began(connection: Any) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
