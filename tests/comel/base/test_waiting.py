"""Threads wait asleep in every process that the product starts, unless its user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comel.base.killable import KillableWorker
from comel.base.waiting import waiting_asleep

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_says_of_it_stands(name: str) -> None:
    assert waiting_asleep({"PATH": "/bin"}) == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert waiting_asleep({name: "ACTIVE"}) == {}


def test_the_threads_of_a_child_wait_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    with KillableWorker() as worker:
        assert worker.call(os.getenv, "OMP_WAIT_POLICY") == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in os.environ
    with KillableWorker(environment={"GOMP_SPINCOUNT": "7"}) as worker:
        assert worker.call(os.getenv, "OMP_WAIT_POLICY") is None
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with KillableWorker() as worker:
        assert worker.call(os.getenv, "OMP_WAIT_POLICY") == "ACTIVE"


def test_the_threads_of_the_command_wait_asleep() -> None:
    """What OpenMP itself says when torch is loaded: the variable must be there by then."""
    script = "import comel.app.cli as cli; cli.app = lambda **_: __import__('torch'); cli.main()"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "TRUE"}
    for chosen in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment | chosen, capture_output=True, text=True, check=True
        )
        wanted = chosen.get("OMP_WAIT_POLICY", "PASSIVE")
        assert f"OMP_WAIT_POLICY = '{wanted}'" in run.stderr
