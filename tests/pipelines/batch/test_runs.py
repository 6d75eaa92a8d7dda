"""Runs of one folder: those with other settings keep out while others are there."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from comel.base.files import read_json, write_json
from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError
from pipelines.batch.claims import Claims
from pipelines.batch.owner import Owner, this_process
from pipelines.batch.pool import LocalPool
from pipelines.batch.presence import Presence
from pipelines.batch.run import CohortRun
from pipelines.batch.runs import RunMarker, TakenOver, marker_path
from pipelines.batch.supervise import SlideTask, Supervisor
from pipelines.batch.work import SlideWork
from tests.calls_here import InThisProcess
from tests.pipelines.batch.small_cohort import SETTINGS, Trapped, bags, leftovers, write_cohort
from tests.pipelines.in_process import Given

ELSEWHERE = Owner("elsewhere", "another boot", 1, 0.0)


def leave_marker(state: Path, owner: Owner, *, age: float = 0.0, **said: str) -> None:
    path = marker_path(state, "theirs")
    write_json(path, {**asdict(owner), **said})
    os.utime(path, (time.time() - age, time.time() - age))


def enter(state: Path, key: str) -> str:
    """What ``run.json`` says when a run with this key has entered."""
    claims, marker = Claims(state / "claims"), RunMarker(state, "mine")
    try:
        marker.enter(key, {}, claims)
    finally:
        marker.close()
        claims.close()
    return str(read_json(state / "run.json")["key"])


@pytest.mark.parametrize("change", [{"dtype": "float32"}, pytest.param({"assume_mpp": 0.5}, marks=pytest.mark.slow)])
def test_a_run_keeps_one_with_other_settings_out_while_it_is_at_no_slide(tmp_path: Path, change: dict[str, Any]) -> None:
    """The second begins when the first has just done its last slide, so that no slide is claimed."""
    manifest, out = write_cohort(tmp_path, 1), tmp_path / "bags"
    rows, refused = read_manifest(manifest).rows, []
    other = SETTINGS.model_copy(update=change)

    def begin(_: object) -> None:
        with pytest.raises(ConfigError, match="works there with other settings; give another --out") as error:
            CohortRun(rows, out, other, LocalPool(1), encoder_loader=Given(Trapped())).run()
        refused.append(str(error.value))

    assert CohortRun(rows, out, SETTINGS, LocalPool(1), encoder_loader=Given(Trapped())).run(begin).done == 1
    assert len(refused) == 1
    assert str(os.getpid()) in refused[0]
    assert [bag.features.dtype for bag in bags(out).values()] == ["float16"]
    assert not leftovers(out)
    report = CohortRun(rows, out, other, LocalPool(1), encoder_loader=Given(Trapped())).run()
    assert report.done + report.skipped == 1
    assert [bag.features.dtype for bag in bags(out).values()] == [other.dtype]


@pytest.mark.parametrize(
    ("owner", "age", "said", "refused"),
    [
        (ELSEWHERE, 0, {"key": "theirs"}, True),
        (ELSEWHERE, 90, {"key": "theirs"}, True),
        (ELSEWHERE, 150, {"key": "theirs"}, False),  # has given no sign for two minutes
        (replace(this_process(), pid=2**22 + 1), 0, {"key": "theirs"}, False),  # has ended
        (this_process(), 0, {"key": "theirs"}, True),
        (this_process(), 0, {"key": "mine"}, False),
        (this_process(), 0, {}, False),  # does not know its key yet, and will find ours
    ],
)
def test_who_keeps_whom_out(tmp_path: Path, owner: Owner, age: float, said: dict[str, str], refused: bool) -> None:
    write_json(tmp_path / "run.json", {"key": "theirs"})
    leave_marker(tmp_path, owner, age=age, **said)
    if refused:
        with pytest.raises(ConfigError, match=rf"{owner.host}, process {owner.pid} works there with other settings"):
            enter(tmp_path, "mine")
        assert read_json(tmp_path / "run.json") == {"key": "theirs"}
    else:
        assert enter(tmp_path, "mine") == "mine"


def test_of_many_that_begin_at_once_one_key_wins(tmp_path: Path) -> None:
    start, entered, refused = threading.Barrier(8), [], []
    markers = [RunMarker(tmp_path, str(number)) for number in range(8)]

    def compete(number: int) -> None:
        claims = Claims(tmp_path / "claims")
        start.wait()
        try:
            markers[number].enter(f"key {number % 2}", {}, claims)
            entered.append(number % 2)
        except ConfigError:
            refused.append(number % 2)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for marker in markers:
        marker.close()
    assert (len(entered), len(refused)) == (4, 4)
    assert len(set(entered)) == 1


def test_a_marker_gives_signs_of_life(tmp_path: Path) -> None:
    marker = RunMarker(tmp_path, "mine", beat=0.02)
    path = marker_path(tmp_path, "mine")
    os.utime(path, (1.0, 1.0))
    until = time.monotonic() + 600
    while path.stat().st_mtime < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    marker.close()
    assert not path.exists()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_run_whose_folder_was_taken_over_writes_nothing(tmp_path: Path, when: str) -> None:
    row = read_manifest(write_cohort(tmp_path, 1)).rows[0]
    work = SlideWork(tmp_path / "bags", SETTINGS, "cpu", "mine", key="mine", encoder_loader=Given(Trapped()))
    write_json(work.state_dir / "run.json", {"key": "theirs" if when == "before" else "mine"})
    called: list[str] = []

    class TakenMeanwhile(InThisProcess):
        """A worker of this process, in whose call the folder changes hands."""

        def call(self, function: Any, *arguments: Any, timeout: float | None = None, tell: Any = None) -> Any:
            called.append(function.__name__)
            write_json(work.state_dir / "run.json", {"key": "theirs"})
            return super().call(function, *arguments, timeout=timeout, tell=tell)

    claims = Claims(work.state_dir / "claims")
    presence = Presence(work.state_dir / "workers", claims, stall_limit=60)
    with pytest.raises(TakenOver, match="another run with other settings has taken this folder over; give another --out"):
        Supervisor(work, TakenMeanwhile(), claims, presence, threading.Event()).settle(SlideTask(row, None))
    presence.close()
    assert ("work_on" in called) == (when == "meanwhile")
    assert not list(work.out.glob("*.h5"))
    assert not (work.state_dir / "outcomes").exists()
    assert claims.live() == {}
    assert json.loads((work.state_dir / "run.json").read_text()) == {"key": "theirs"}
