"""``comel worker``: works on the jobs that ``comel serve`` accepts, from another process or machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comel.app.options import Flag, Given, options_of

if TYPE_CHECKING:
    from service.settings import ServiceSettings

from comel.app.commands.options import Trusted

__all__ = ["worker"]


@options_of(
    "service.settings:ServiceSettings",
    only=("runs", "state_dir", "workers", "device", "settings_file"),
    names={
        "runs": Flag("--model", "Run directory, or NAME=RUN, as given to comel serve; may be repeated."),
        "state_dir": Flag("--state", "The service's state folder; default comel-state."),
        "settings_file": Flag("--config", "YAML file with the service's settings."),
    },
    config=None,
    example="lease_seconds=60",
)
def worker(given: Given[ServiceSettings], trust: Trusted = None) -> None:
    """Work on the service's jobs until stopped; a job in progress is finished or requeued."""
    from comel.app import api

    api.worker(**dict(given.settings()) | ({"trusted_code": tuple(trust)} if trust else {}))
