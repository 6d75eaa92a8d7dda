"""What several tests of the service do with bags and answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from comel.bags.bag import Bag, write_bag


def bag_bytes(tmp_path: Path, bag: Bag) -> bytes:
    write_bag(tmp_path / "sent.h5", bag)
    return (tmp_path / "sent.h5").read_bytes()


def place_of(answer: Any) -> str:
    """Where ``Location`` leads, which is relative to where it was asked."""
    return str(answer.url.join(answer.headers["location"]))


def ended(client: Any, accepted: Any, *, seconds: float = 600) -> dict[str, Any]:
    """The job of an answer 202, when it has ended."""
    assert accepted.status_code == 202, accepted.text
    place, deadline = place_of(accepted), time.monotonic() + seconds
    while True:
        job: dict[str, Any] = client.get(place).json()
        if job["state"] not in ("queued", "running"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
