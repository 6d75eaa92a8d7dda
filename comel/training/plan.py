"""A run's plan: a hash of everything that determines its weights. Only the same plan can resume a run."""

from __future__ import annotations

from pathlib import Path

from comel.base.files import sha256_of_json
from comel.cohort.manifest import Manifest
from comel.runs.config import CODE_SHA256, SHORT_PRECISIONS, RunConfig, load_config
from comel.runs.directory import RunDirectory
from comel.runs.events import read_events

__all__ = ["plan_of", "stored_plan"]

_NONE = object()
_NOT_PART_OF_IT = {"trainer": {"device", "threads", "checkpoint_seconds"}, "data": {"cache_gib"}}


def plan_of(config: RunConfig, manifest: Manifest) -> str:
    """The hash of the settings, as far as they determine the weights, and of the bytes of the manifest that they name.

    The content of a user's own code is not in it: it is compared separately, with its own message.
    """
    from comel.models.comel import CoMELOptions

    values = config.model_dump(mode="json", exclude=_NOT_PART_OF_IT)
    for section in ("model", "strategy"):
        values[section].pop(CODE_SHA256, None)
    for key in ("manifest", "bags", "root"):
        if values["data"][key] is not None:
            values["data"][key] = str(Path(values["data"][key]).resolve())
    # As version 0.1.0 wrote it, so that a run that it began still has the same plan.
    values["trainer"]["precision"] = SHORT_PRECISIONS[config.trainer.precision]
    if values["model"]["name"] == "comel":  # and with the settings that it had
        values["model"] = {
            name: value for name, value in values["model"].items() if CoMELOptions.earlier.get(name, _NONE) != value
        }
    return sha256_of_json([values, manifest.digest])


def stored_plan(run: RunDirectory, manifest: Manifest) -> str:
    """The plan that the run was last trained with.

    Args:
        run: a run that has learned something.
        manifest: used as the run's own if ``events.jsonl`` no longer states the plan.
    """
    plans = [event["plan"] for event in read_events(run) if event["event"] == "start" and "plan" in event]
    return plans[-1] if plans else plan_of(load_config(run.config), manifest)
