"""The events of a run: ``events.jsonl``, one line per event."""

from __future__ import annotations

import json
from typing import Any

from comel.errors import RunError
from comel.runs.directory import RunDirectory

__all__ = ["read_events"]

_MAX_BYTES = 1 << 30


def read_events(run: RunDirectory) -> list[dict[str, Any]]:
    """The events in ``events.jsonl``; a line that a killed process left half-written is skipped.

    Raises:
        RunError: the file is larger than any run writes.
    """
    if not run.events.is_file():
        return []
    if (size := run.events.stat().st_size) > _MAX_BYTES:
        raise RunError.damaged(run.events, f"holds {size >> 20} MiB")
    events = []
    with open(run.events, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                events.append(event)
    return events
