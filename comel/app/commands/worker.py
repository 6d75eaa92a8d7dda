"""``comel worker``: works on the jobs that ``comel serve`` accepts, from another process or machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comel.app.commands.options import Trusted

__all__ = ["worker"]


def worker(
    model: Annotated[
        list[str] | None, typer.Option(help="Run directory, or NAME=RUN, as comel serve was given them; may be repeated.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="The service's state folder; default comel-state.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; default one a GPU, or one.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with the service's settings.")] = None,
    trust: Trusted = None,
) -> None:
    """Work on the service's jobs until told to stop; a job under way is finished or put back."""
    from comel.app import api

    api.worker(model or None, state_dir=state, workers=workers, device=device, settings_file=config, trusted_code=trust or None)
