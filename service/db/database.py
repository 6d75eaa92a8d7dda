"""A connection to the database. Two kinds: SQLite for one machine, PostgreSQL for several.

SQLite runs in WAL mode, so readers never wait for a writer; a writing transaction takes the write lock when it begins
(``BEGIN IMMEDIATE``), so it never fails half way because another writer was quicker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from comel.errors import ConfigError

__all__ = ["Database", "database_url"]

BUSY_SECONDS = 30
_WRITES = "comel_writes"


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
                raise ConfigError(f"no database of kind '{kind}' is used", "give sqlite:///... or postgresql://...")
            options: dict[str, Any] = {"pool_pre_ping": True} if kind == "postgresql" else {}
            self.engine = create_engine(parsed, **options)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            # A URL may hold a password, so it is not repeated.
            raise ConfigError(
                f"the database's URL cannot be used ({type(error).__name__})",
                "give sqlite:///FILE, or postgresql://USER@HOST/NAME with comel-mil[postgres] installed",
            ) from None
        self.sqlite = kind == "sqlite"
        if self.sqlite:
            _prepare_sqlite(self.engine)
        self._writer = self.engine.execution_options(**{_WRITES: True})

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def check(self) -> None:
        """Raise :class:`ConfigError` unless the database answers."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).splitlines() or [""]
            raise ConfigError(f"the database does not answer ({reason[0][:160]})", "check its URL, and that it runs") from None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that changes nothing."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed at the end of the block, or undone where it raises."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def now(self, session: Session) -> float:
        """Seconds since 1970 by the database's clock, so that leases of several machines mean the same."""
        if self.sqlite:
            return time.time()
        return float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def lock(self, session: Session, number: int) -> None:
        """Keep other writers of the same number out until the transaction ends; SQLite has one writer anyway."""
        if not self.sqlite:
            session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def database_url(url: str | None, state_dir: Path) -> str:
    """``url``, or that of the SQLite file in the state folder where none is set."""
    return url or f"sqlite:///{(state_dir / 'comel.db').absolute()}"


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        # The driver would begin transactions by itself, and only at the first change.
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
