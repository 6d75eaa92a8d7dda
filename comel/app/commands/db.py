"""``comel db``: the database of the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.db.database import Database
    from service.settings import ServiceSettings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The database of comel serve.")

State = Annotated[Path | None, typer.Option(help="The service's state folder; default comel-state.")]
Config = Annotated[Path | None, typer.Option(help="YAML file with the service's settings.")]


@app.command(epilog="Example: comel db upgrade --state /var/lib/comel")
def upgrade(state: State = None, config: Config = None) -> None:
    """Upgrade the tables to this version of comel; comel serve also does so when it starts."""
    from service.db import migrate

    with _opened(state, config) as (database, _):
        migrate.upgrade(database)
    typer.echo(f"the tables are at {migrate.head()}")


@app.command(epilog="Example: comel db pair --state /var/lib/comel")
def pair(state: State = None, config: Config = None) -> None:
    """Pair a database with a state folder that did not belong to it; stop the service first.

    Predictions in the folder that are not in the database are added to it. Other unknown folders are moved to
    set-aside in the state folder. Nothing is deleted.
    """
    from service.access.audit import AuditLog
    from service.db import migrate, pairing
    from service.housekeeping import take_in

    with _opened(state, config) as (database, settings):
        migrate.upgrade(database)
        pairing.join(database, settings.state_dir)
        done = take_in(database, settings, AuditLog(settings.state_dir))
    typer.echo(f"{settings.state_dir}: {done['adopted']} predictions added, {done['set_aside']} other folders set aside")


@app.command(epilog="Example: comel db backup comel-2026-03-01.jsonl.gz --state /var/lib/comel")
def backup(
    file: Annotated[Path, typer.Argument(help="File to write, gzip-compressed JSON lines.")],
    state: State = None,
    config: Config = None,
) -> None:
    """Write every row to a file, also while the service runs; copy the folder of predictions afterwards."""
    from service.db import backup as backups

    with _opened(state, config) as (database, _):
        typer.echo(f"{file}: {backups.backup(database, file)} rows")


@app.command(epilog="Example: comel db restore comel-2026-03-01.jsonl.gz --state /var/lib/comel")
def restore(
    file: Annotated[Path, typer.Argument(help="File that comel db backup wrote.")], state: State = None, config: Config = None
) -> None:
    """Fill an empty database from a backup; a backup from SQLite may be restored into PostgreSQL, and vice versa."""
    from service.db import backup as backups

    with _opened(state, config) as (database, _):
        typer.echo(f"{file}: {backups.restore(database, file)} rows restored")


@contextmanager
def _opened(state: Path | None, config: Path | None) -> Iterator[tuple[Database, ServiceSettings]]:
    """The database that the settings name, and the settings; files that are written are private to the owner."""
    from sqlalchemy.exc import SQLAlchemyError

    from comel.base.settings import parse_section
    from comel.errors import ConfigError
    from service.access.keys import private_files, private_folder
    from service.db.database import Database, database_url
    from service.errors import is_full
    from service.settings import ServiceSettings

    given = {name: value for name, value in (("state_dir", state), ("settings_file", config)) if value is not None}
    settings = parse_section(ServiceSettings, given, "db")
    with private_files():
        private_folder(settings.state_dir)
        secret = settings.database_url
        database = Database(database_url(None if secret is None else secret.get_secret_value(), settings.state_dir))
        try:
            yield database, settings
        except SQLAlchemyError as error:
            why = "its disk is full" if is_full(error) else type(error).__name__
            raise ConfigError(f"the database cannot do it ({why})", "check its disk and permissions") from None
        finally:
            database.close()
