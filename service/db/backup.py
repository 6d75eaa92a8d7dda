"""The database as one file that either kind of database can restore, so a backup also moves data from SQLite to PostgreSQL.

The file is gzip-compressed JSON lines: first ``{"format": 1, "revision": ...}``, then one ``{"table": ..., "row": ...}`` per
row, last ``{"rows": count}``. It is a consistent snapshot, taken while the service runs.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, inspect, select, text

from comel.base.files import atomic_path
from comel.errors import ConfigError
from service.db.database import Database
from service.db.migrate import head, revision, revisions, upgrade
from service.db.tables import Base, Installation

__all__ = ["backup", "restore"]

_FORMAT = 1
_LONGEST_LINE = 16 << 20
_REMEDY = "give a file that comel db backup wrote"


def backup(database: Database, path: Path) -> int:
    """Write every row to ``path``, atomically, and return their number.

    Raises:
        ConfigError: the database does not answer, or has different tables from this program.
    """
    if (current := revision(database)) != head():
        raise ConfigError(f"the database's tables are at {current}, not {head()}", "run comel db upgrade first")
    count = 0
    with atomic_path(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as file:
        _write(file, {"format": _FORMAT, "revision": head()})
        with database.reading() as session:
            if not database.sqlite:
                session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            for table in Base.metadata.sorted_tables:
                for row in session.execute(select(table)).mappings():
                    _write(file, {"table": table.name, "row": dict(row)})
                    count += 1
        _write(file, {"rows": count})
    return count


def restore(database: Database, path: Path) -> int:
    """Fill an empty database from a backup of this version or an earlier one, completely or not at all; returns the rows.

    Jobs that were running are queued again when their lease expires. The state folder that the database belongs to comes with
    the backup.

    Raises:
        ConfigError: the file cannot be read or has another version, or the database is not empty.
    """
    upgrade(database)
    _refuse_filled(database)
    try:
        lines = _lines(path)
        first = next(lines, {})
        if first.get("format") != _FORMAT or first.get("revision") not in revisions():
            raise ConfigError(f"{path}: not a backup of this version of comel or an earlier one", _REMEDY)
        upgrade(database, str(first["revision"]))
        try:
            return _insert(database, path, lines)
        finally:
            upgrade(database)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as a backup ({type(error).__name__})", _REMEDY) from None


def _refuse_filled(database: Database) -> None:
    """Whether the database is empty, ignoring its state folder, which comes with the backup."""
    filled = (table for table in Base.metadata.sorted_tables if table.name != Installation.__tablename__)
    with database.reading() as session:
        if any(session.execute(select(func.count()).select_from(table)).scalar_one() for table in filled):
            raise ConfigError("the database is not empty", "restore into a new one")


def _insert(database: Database, path: Path, lines: Iterator[dict[str, Any]]) -> int:
    tables = Base.metadata.tables
    with database.writing() as session:
        if inspect(session.connection()).has_table(Installation.__tablename__):
            session.execute(delete(Installation))
        for count, line in enumerate(lines):
            if "rows" in line:
                if line["rows"] != count:
                    raise ConfigError(f"{path}: {count} rows of {line['rows']}", _REMEDY)
                return count
            session.execute(insert(tables[line["table"]]), line["row"])
        raise ConfigError(f"{path}: truncated", _REMEDY)


def _write(file: Any, value: dict[str, Any]) -> None:
    file.write(json.dumps(value, allow_nan=False) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        while line := file.readline(_LONGEST_LINE):
            yield json.loads(line)
