"""``comel keys``: the API keys of the service."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comel.app.commands.options import Json, print_json

if TYPE_CHECKING:
    from service.access.audit import AuditLog

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="API keys of comel serve.")

Name = Annotated[str, typer.Argument(help="Name of the key's holder; the audit log shows it.")]
State = Annotated[Path, typer.Option(help="The service's state folder.", envvar="COMEL_STATE_DIR")]
DEFAULT_STATE = Path("comel-state")


@app.command(epilog="Example: comel keys add viewer --scope read --state /var/lib/comel")
def add(
    name: Name,
    scope: Annotated[str, typer.Option(help="read, predict, manage or admin; each includes the ones before it.")],
    state: State = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Create a key and print it once."""
    from service.access.keys import KeyStore, private_files

    with private_files():
        audit = _audit(state)
        written = partial(audit.record, "key-add", key=name, outcome="done", scope=scope)
        secret = KeyStore(state).add(name, scope, record=written)
    if as_json:
        print_json({"name": name, "scope": scope, "key": secret})
        return
    typer.echo(secret)
    typer.echo("keep it now: only its hash is stored, and it cannot be shown again", err=True)


@app.command("list", epilog="Example: comel keys list --state /var/lib/comel")
def list_keys(state: State = DEFAULT_STATE, as_json: Json = False) -> None:
    """Names, scopes and dates; never the keys."""
    from service.access.keys import KeyStore

    keys = KeyStore(state).all()
    if as_json:
        print_json([{"name": k.name, "scope": k.scope, "created": k.created, "revoked": k.revoked} for k in keys])
        return
    for key in keys:
        ended = f", revoked {key.revoked}" if key.revoked else ""
        typer.echo(f"{key.name}: {key.scope}, created {key.created}{ended}")
    if not keys:
        typer.echo(f"no keys in {state}")


@app.command(epilog="Example: comel keys revoke viewer --state /var/lib/comel")
def revoke(name: Name, state: State = DEFAULT_STATE) -> None:
    """Revoke a key; a running service refuses it from the next request on."""
    from service.access.keys import KeyStore, private_files

    with private_files():
        audit = _audit(state)
        KeyStore(state).revoke(name, record=partial(audit.record, "key-revoke", key=name, outcome="done"))
    typer.echo(f"{name}: revoked")


def _audit(state: Path) -> AuditLog:
    """Opened before a key changes: a change that cannot be logged is not made."""
    from service.access.audit import AuditLog
    from service.access.keys import private_folder

    private_folder(state)
    return AuditLog(state)
