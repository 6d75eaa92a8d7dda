"""Bring a database to this version's tables, and refuse one of a later version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from comel.errors import ConfigError
from service.db.database import Database

__all__ = ["head", "revision", "revisions", "upgrade"]

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7_023_101


def upgrade(database: Database, to: str | None = None) -> None:
    """Create missing tables and columns; does nothing if there are none. Several processes may start at once.

    Args:
        database: an empty one, or one of this version or an earlier one.
        to: the target version of its tables, which may be an earlier one if the database is empty; default this program's.

    Raises:
        ConfigError: the database does not answer, or a later version of comel made its tables.
    """
    from alembic import command

    database.check()
    config, wanted = _config(), to or head()
    with database.writing() as session:
        database.lock(session, _LOCK)
        connection = session.connection()
        current = _refuse_newer(connection)
        if current != wanted:
            config.attributes["connection"] = connection
            back = current is not None and revisions().index(current) < revisions().index(wanted)
            (command.downgrade if back else command.upgrade)(config, wanted)


def revision(database: Database) -> str | None:
    """The version of the database's tables, None if it has none."""
    database.check()
    with database.reading() as session:
        return _current(session.connection())


def head() -> str:
    """The version of the tables that this program has."""
    found = _scripts().get_current_head()
    assert found is not None
    return str(found)


def revisions() -> list[str]:
    """Every version of the tables that this program knows, its own first."""
    return [str(script.revision) for script in _scripts().walk_revisions()]


def _refuse_newer(connection: Connection) -> str | None:
    current = _current(connection)
    if current is not None and current not in revisions():
        raise ConfigError(
            f"the database was made by a later version of comel (its tables are at {current[:40]}, this program's at {head()})",
            "run that version, or restore a backup of this one: comel db restore",
        )
    return current


def _current(connection: Connection) -> str | None:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _scripts() -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config
