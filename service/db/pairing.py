"""Which database belongs to which state folder: both hold the same id, ``<state_dir>/state.id`` and the table ``installation``.

The folder holds predictions, uploads and bags; the database lists them. A database that is empty, was
restored from elsewhere, or is a different one altogether does not list them as needed; so before anything is cleaned
up or answered, the two are checked to belong together.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from comel.base.files import write_text
from comel.errors import ConfigError
from service.db.database import Database
from service.db.tables import Installation, Job, PredictionRow, Upload
from service.ids import is_id, new_id

__all__ = ["join", "pair"]

_LOCK = 7_023_104
_FILE = "state.id"
_PLACES = ("predictions", "uploads", "inbox")
_KEPT = (PredictionRow, Upload)


def pair(database: Database, state_dir: Path) -> None:
    """Check that a database with this version's tables belongs to a state folder, and bind it to the folder's id.

    If one of the two has no id yet, their content decides: both are empty, or the database lists some of what lies in the
    folder. So a state of an earlier version is accepted. Several processes may start at once.

    Raises:
        ConfigError: they do not belong together, or the folder's id cannot be read or written.
    """
    with database.writing() as session:
        database.lock(session, _LOCK)
        here, there = _read(state_dir), _ids(session)
        if (here is not None and there not in ([], [here])) or (here not in there and not _alike(session, state_dir)):
            raise _mismatch(session, state_dir)
        identifier = here or (there[0] if there else new_id())
        if here is None:
            _write(state_dir, identifier)
        if not there:
            session.add(Installation(id=identifier, created=database.now(session)))
    database.bind(identifier)


def join(database: Database, state_dir: Path) -> None:
    """Pair a database and a state folder from now on, whatever they hold, at an operator's request.

    Raises:
        ConfigError: the folder's id cannot be written.
    """
    with database.writing() as session:
        database.lock(session, _LOCK)
        identifier = new_id()
        session.execute(delete(Installation))
        session.add(Installation(id=identifier, created=database.now(session)))
        _write(state_dir, identifier)
    database.bind(identifier)


def _alike(session: Session, state_dir: Path) -> bool:
    """Whether nothing contradicts that the database belongs to the folder."""
    found, kept = _found(state_dir), _names(session, *_KEPT)
    return bool(found & (kept | _names(session, Job))) or not (found or kept)


def _found(state_dir: Path) -> set[str]:
    folders = (state_dir / place for place in _PLACES)
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if is_id(path.name)}


def _names(session: Session, *tables: type[PredictionRow | Upload | Job]) -> set[str]:
    return {str(name) for table in tables for name in session.execute(select(table.id)).scalars()}


def _ids(session: Session) -> list[str]:
    return list(session.execute(select(Installation.id)).scalars())


def _read(state_dir: Path) -> str | None:
    path = state_dir / _FILE
    try:
        content = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        content = ""
    if not is_id(content):
        raise ConfigError(
            f"{path}: cannot be read", "restore it from a copy, or delete it if the database belongs to this folder"
        )
    return content


def _write(state_dir: Path, identifier: str) -> None:
    try:
        write_text(state_dir / _FILE, f"{identifier}\n", mode=0o600)
    except OSError as error:
        raise ConfigError(
            f"{state_dir / _FILE}: cannot be written ({os.strerror(error.errno or 0)})", "check its permissions and disk"
        ) from None


def _mismatch(session: Session, state_dir: Path) -> ConfigError:
    held, known = len(_found(state_dir)), len(_names(session, *_KEPT))
    return ConfigError(
        f"the database does not belong to the state folder {state_dir}: {held} predictions and uploads lie there, the database "
        f"knows {known} of its own",
        "give the database_url and the state_dir that belong together, or restore the database: comel db restore; "
        f"to use them together anyway: comel db pair --state {state_dir}",
    )
