"""How many cores a process may use, from files as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import comel
from comel.app.cli import app
from comel.base import cores
from comel.base.cores import available_cores, quota_of, threads_to_start, threads_wanted
from tests.comel.toys import Stream

V2 = "0::/user.slice/job\n"
V1 = "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:cpuset:/\n"


def quota(folder: Path, groups: str, **files: str) -> float | None:
    """``files`` by their path, in which __ is a slash and _ a dot, where that belongs."""
    (folder / "groups").write_text(groups)
    for name, content in files.items():
        path = folder / "mounted" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return quota_of(folder / "groups", folder / "mounted")


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {}, None),
        (V2, {"user.slice__job__cpu_max": "max 100000\n"}, None),
        (V2, {"user.slice__job__cpu_max": "250000 100000\n"}, 2.5),
        (V2, {"user.slice__job__cpu_max": "max 100000\n", "user.slice__cpu_max": "150000 50000\n"}, 3.0),
        (V2, {"user.slice__job__cpu_max": "800000 100000\n", "user.slice__cpu_max": "400000 100000\n"}, 4.0),
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2.0),  # a container of its own cgroup namespace
        ("0::/\n", {"cpu_max": "damaged\n"}, None),
        (V1, {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, None),
        (V1, {"cpu__cpu_cfs_quota_us": "200000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 2.0),  # docker: the top is its own
        (
            V1,
            {"cpu,cpuacct__docker__ab__cpu_cfs_quota_us": "50000", "cpu,cpuacct__docker__ab__cpu_cfs_period_us": "100000"},
            0.5,
        ),
        ("4:cpuset:/\n", {"cpu__cpu_cfs_quota_us": "200000\n", "cpu__cpu_cfs_period_us": "100000\n"}, None),
        (V1 + V2, {"unified__user.slice__cpu_max": "700000 100000"}, 7.0),
        ("nonsense", {}, None),
    ],
)
def test_what_cgroups_leave(tmp_path: Path, groups: str, files: dict[str, str], expected: float | None) -> None:
    assert quota(tmp_path, groups, **files) == expected


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert quota_of(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("left", "expected"), [(None, 8), (2.9, 2), (0.5, 1), (64.0, 8)])
def test_the_less_of_affinity_and_quota(left: float | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "quota_of", lambda *_: left)
    assert available_cores() == expected


@pytest.mark.parametrize(
    ("torch_takes", "allowed", "environment", "told", "expected"),
    [
        (64, 2, None, None, 2),
        (64, 64, None, None, 16),
        (3, 8, None, None, 3),  # by torch.set_num_threads of whoever calls
        (64, 2, "48", None, 64),
        (64, 2, "48", 5, 5),
        (64, 2, None, 5, 5),
    ],
)
def test_threads_of_a_training(
    torch_takes: int,
    allowed: int,
    environment: str | None,
    told: int | None,
    expected: int,
    toy_stream: Stream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting, else what torch takes, but no more than may be used, 16, or what the user's environment says."""
    now = [torch_takes]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setattr(cores, "available_cores", lambda: allowed)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    settings = toy_stream.settings({"name": "finetune"}, tasks=["colon"], epochs=1, threads=told)
    comel.train(settings, tmp_path / "run", quiet=True)
    assert (now[1], now[-1]) == (expected, torch_takes), "and what was before, afterwards"


@pytest.mark.parametrize(
    "arguments",
    [["predict", "no-run", "bag.h5", "--out", "out"], ["evaluate", "no-run", "--manifest", "m.csv", "--bags", "bags"]],
)
def test_predicting_starts_no_more_threads_than_a_container_allows(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole process, and before the run is looked at, which is not there."""
    now = [64]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert now == [64, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3), (" 3 ", 3), ("3,2", 3), ("0", None), ("-1", None), ("", None), ("many", None), ("2.5", None), ("\u0663", None)],
)
def test_threads_that_a_user_asks_for(text: str, expected: int | None) -> None:
    assert threads_wanted({"OMP_NUM_THREADS": text}) == expected


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("4", 4), ("64", 6), ("many", 6)])
def test_threads_to_start_are_no_more_than_cores(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_to_start() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_to_start() == 6
