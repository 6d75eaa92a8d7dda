"""``comel db``: the database of the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.db.database import Database

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The database of comel serve.")

State = Annotated[Path | None, typer.Option(help="The service's state folder; default comel-state.")]
Config = Annotated[Path | None, typer.Option(help="YAML file with the service's settings.")]


@app.command(epilog="Example: comel db upgrade --state /var/lib/comel")
def upgrade(state: State = None, config: Config = None) -> None:
    """Bring the tables to this version of comel; comel serve does so too when it starts."""
    from service.db import migrate

    database = _database(state, config)
    migrate.upgrade(database)
    typer.echo(f"the tables are of {migrate.head()}")


@app.command(epilog="Example: comel db backup comel-2026-03-01.jsonl.gz --state /var/lib/comel")
def backup(
    file: Annotated[Path, typer.Argument(help="File to write, gzip-compressed JSON lines.")],
    state: State = None,
    config: Config = None,
) -> None:
    """Write every row to a file, while the service runs; copy the folder of predictions after it."""
    from service.db import backup as backups

    typer.echo(f"{file}: {backups.backup(_database(state, config), file)} rows")


@app.command(epilog="Example: comel db restore comel-2026-03-01.jsonl.gz --state /var/lib/comel")
def restore(
    file: Annotated[Path, typer.Argument(help="File that comel db backup wrote.")], state: State = None, config: Config = None
) -> None:
    """Fill an empty database from a backup; one of SQLite may be restored into PostgreSQL, and the other way round."""
    from service.db import backup as backups

    typer.echo(f"{file}: {backups.restore(_database(state, config), file)} rows restored")


def _database(state: Path | None, config: Path | None) -> Database:
    from comel.base.settings import parse_section
    from service.access.keys import private_folder
    from service.db.database import Database, database_url
    from service.settings import ServiceSettings

    given = {name: value for name, value in (("state_dir", state), ("settings_file", config)) if value is not None}
    settings = parse_section(ServiceSettings, given, "db")
    private_folder(settings.state_dir)
    secret = settings.database_url
    return Database(database_url(None if secret is None else secret.get_secret_value(), settings.state_dir))
