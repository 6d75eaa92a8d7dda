"""The events of a run: ``events.jsonl``, one line per event."""

from __future__ import annotations

import json
from typing import Any

from comel.runs.directory import RunDirectory

__all__ = ["read_events"]


def read_events(run: RunDirectory) -> list[dict[str, Any]]:
    """The lines of ``events.jsonl``; one that a killed process left half-written is passed over."""
    if not run.events.is_file():
        return []
    events = []
    with open(run.events, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.append(event)
    return events
