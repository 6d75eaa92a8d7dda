"""What may go wrong in a cohort, each as it happens: crashes, hangs, kills, full disks, several hosts."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from comel.bags.bag import Bag
from comel.base import killable
from comel.base.killable import KillableWorker
from comel.cohort.manifest import read_manifest
from comel.errors import ComelError
from pipelines.batch.claims import Claims
from pipelines.batch.owner import HOST_VARIABLE
from pipelines.batch.presence import Presence, Running, Watched
from pipelines.batch.run import read_failures
from pipelines.batch.slide_records import Ledger
from pipelines.batch.supervise import SlideTask, Supervisor
from pipelines.batch.work import SlideWork
from tests.calls_here import InThisProcess
from tests.pipelines.batch.small_cohort import (
    CRASHES,
    EATS,
    HANGS,
    SETTINGS,
    Trapped,
    assert_same,
    bags,
    draw_slide,
    extract,
    leftovers,
    start,
    wait_for,
    write_cohort,
)
from tests.pipelines.in_process import Given, extract_cohort
from tests.pipelines.small_slides import write_manifest
from tests.places import ROOT

DAY, LONG = 86_400.0, 600.0


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Bag]]:
    """A cohort of six, and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("cohort")
    manifest = write_cohort(folder, 6)
    assert extract_cohort(manifest, folder / "bags", SETTINGS, encoder=Trapped()).done == 6
    return manifest, bags(folder / "bags")


def let_a_day_pass(monkeypatch: pytest.MonkeyPatch, comes_to: Callable[[Running], bool]) -> None:
    """For who waits for a slide that comes to this: it is late on any machine, and no other slide on none."""
    hear, ahead = Watched.hear, threading.local()

    def heard(self: Watched, message: Any) -> None:
        hear(self, message)
        if comes_to(self.running):
            ahead.seconds = now() - time.monotonic() + DAY

    def now() -> float:
        return time.monotonic() + getattr(ahead, "seconds", 0.0)

    monkeypatch.setattr(Watched, "hear", heard)
    monkeypatch.setattr(killable, "time", SimpleNamespace(monotonic=now))


def test_only_the_slide_that_hangs_or_crashes_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, out = write_cohort(tmp_path, 3, hangs=HANGS, crashes=CRASHES), tmp_path / "bags"
    with monkeypatch.context() as patch:
        let_a_day_pass(patch, lambda running: (running.slide_id, running.stage) == ("hangs", "encode"))
        report = extract(manifest, out, workers=2, time_limit=3600)
    assert (report.done, report.failed) == (3, 2)
    failures = {failure.slide: failure for failure in read_failures(out / "failures.csv")}
    assert {name: failure.stage for name, failure in failures.items()} == {"crashes": "encode", "hangs": "encode"}
    assert failures["crashes"].reason == "the process died (signal SIGSEGV)"
    assert failures["hangs"].reason == "it took longer than 3600 s; it was stopped"
    assert "--time-limit" in failures["hangs"].remedy
    assert list(bags(out)) == ["s00", "s01", "s02"]
    assert not leftovers(out)
    for name in failures:
        draw_slide(tmp_path / "slides" / f"{name}.tif", 5)
    again = extract(manifest, out, retry_failed=True)
    assert (again.done, again.skipped, again.failed) == (2, 0, 0)
    assert read_failures(out / "failures.csv") == []


@pytest.mark.skipif(sys.platform != "linux", reason="what a process uses is known on Linux only")
def test_only_the_slide_that_takes_too_much_memory_is_blamed(tmp_path: Path) -> None:
    manifest, out = write_cohort(tmp_path, 2, eats=EATS), tmp_path / "bags"
    report = extract(manifest, out, worker_memory=0.5)
    assert (report.done, report.failed) == (2, 1)
    [failure] = read_failures(out / "failures.csv")
    assert (failure.slide, failure.stage) == ("eats", "encode")
    assert failure.reason == "it used more than 0.5 GiB of memory; it was stopped"
    assert failure.remedy.startswith("raise --worker-memory")
    assert list(bags(out)) == ["s00", "s01"]
    assert not leftovers(out)
    draw_slide(tmp_path / "slides" / "eats.tif", 5)
    assert extract(manifest, out, worker_memory=0.5, retry_failed=True).done == 1


def test_a_slide_is_not_blamed_for_the_time_that_the_encoder_takes_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first slide crashes the worker, and the next finds one that has loaded nothing."""
    manifest, loads = write_cohort(tmp_path, 2, crashes=CRASHES), list[str]()

    def loads_the_encoder(running: Running) -> bool:
        first = running.stage == "encoder" and running.slide_id not in loads  # later the work asks for what was loaded
        loads.extend([running.slide_id] * first)
        return first

    let_a_day_pass(monkeypatch, loads_the_encoder)
    report = extract(manifest, tmp_path / "bags", time_limit=3600)
    assert loads == ["crashes", "s00", "s01"]
    assert [(failure.slide, failure.reason) for failure in report.failures] == [
        ("crashes", "the process died (signal SIGSEGV)")
    ]
    assert report.done == 2


def test_only_the_work_on_a_slide_has_its_time_limit(tmp_path: Path) -> None:
    row, limits = read_manifest(write_cohort(tmp_path, 1)).rows[0], {}

    class Recording(InThisProcess):
        def call(self, function: Any, *arguments: Any, timeout: float | None = None, tell: Any = None) -> Any:
            limits[function.__name__] = timeout
            return super().call(function, *arguments, timeout=timeout, tell=tell)

    work = SlideWork(tmp_path / "bags", SETTINGS, "cpu", "run", key="key", time_limit=12, encoder_loader=Given(Trapped()))
    claims = Claims(work.state_dir / "claims")
    presence = Presence(work.state_dir / "workers", claims, stall_limit=60)
    settled = Supervisor(work, Recording(), claims, presence, threading.Event()).settle(SlideTask(row, None))
    presence.close()
    assert (settled.state, limits) == ("done", {"load": None, "work_on": 12})


def test_a_run_ends_where_no_worker_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slide is to blame, and none that follows would fare better; the same command goes on later."""
    manifest, out = write_cohort(tmp_path, 2), tmp_path / "bags"
    row = read_manifest(manifest).rows[0]
    work = SlideWork(out, SETTINGS, "cpu", "run", key="key", encoder_loader=Given(Trapped()))
    claims = Claims(work.state_dir / "claims")
    presence = Presence(work.state_dir / "workers", claims, stall_limit=60)
    with monkeypatch.context() as patch, KillableWorker() as worker:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(ComelError, match=r"cannot be loaded: no process can be started .*; close other programs"):
            extract(manifest, out)
        with pytest.raises(ComelError, match=r"no process can be started .*; close other programs"):
            Supervisor(work, worker, claims, presence, threading.Event()).settle(SlideTask(row, None))
    presence.close()
    assert claims.live() == {}
    claims.close()
    assert Ledger(work.state_dir / "outcomes").all() == {}
    assert extract(manifest, out).done == 2


def test_a_slide_without_progress_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_cohort(tmp_path, 1, hangs=HANGS)
    hear = Watched.hear

    def heard(self: Watched, message: Any) -> None:
        hear(self, message)
        if (self.running.slide_id, self.running.stage) == ("hangs", "encode"):
            self.heard -= DAY

    monkeypatch.setattr(Watched, "hear", heard)
    report = extract(manifest, tmp_path / "bags", stall_limit=3600)
    assert (report.done, report.failed) == (1, 1)
    assert report.failures[0].reason == "no progress for 3600 s; it was stopped"
    assert "--batch-size" in report.failures[0].remedy
    assert "--time-limit" not in report.failures[0].remedy


def works(pid: int, out: Path) -> bool:
    """Whether a process holds a claim."""
    claims = Claims(out / ".extract" / "claims")
    held = claims.live().values()
    claims.close()
    return any(claim.owner is not None and claim.owner.pid == pid for claim in held)


def kill_again_and_again(cohort: tuple[Path, dict[str, Bag]], out: Path, times: int) -> None:
    """Each run is killed, supervisor and child, at a random moment of its work, unless it was quicker; then one runs to its
    end."""
    manifest, whole = cohort
    moments = random.Random(0)
    for _ in range(times):
        for name in moments.sample(sorted(whole), 3):  # so that there is always work to be killed in
            (out / f"{name}.h5").unlink(missing_ok=True)
        process = start(manifest, out, pause=0.03)
        wait_for(lambda process=process: process.poll() is not None or works(process.pid, out))
        time.sleep(moments.uniform(0, 1.2))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for name, bag in bags(out).items():
            assert_same({name: bag}, {name: whole[name]})
    last = start(manifest, out)
    said, errors = last.communicate(timeout=LONG)
    report = json.loads(said)
    assert report["done"] + report["skipped"] == len(whole), errors
    assert report["failed"] == 0
    assert_same(bags(out), whole)
    assert {path.stem for path in (out / "overlays").iterdir()} == set(whole)
    assert not leftovers(out)


def test_killed_at_random_moments(cohort: tuple[Path, dict[str, Bag]], tmp_path: Path) -> None:
    kill_again_and_again(cohort, tmp_path / "bags", 2)


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_killed_at_a_hundred_random_moments(cohort: tuple[Path, dict[str, Bag]], tmp_path: Path) -> None:
    kill_again_and_again(cohort, tmp_path / "bags", 100)


def test_two_hosts_do_every_slide_once(cohort: tuple[Path, dict[str, Bag]], tmp_path: Path) -> None:
    manifest, whole = cohort
    out = tmp_path / "bags"
    hosts = [start(manifest, out, pause=0.1, environment={HOST_VARIABLE: name}) for name in ("first", "second")]
    reports = [json.loads(host.communicate(timeout=LONG)[0]) for host in hosts]
    assert sum(report["done"] for report in reports) == len(whole)
    assert all(report["done"] + report["elsewhere"] + report["skipped"] == len(whole) for report in reports)
    assert {outcome.host for outcome in Ledger(out / ".extract" / "outcomes").all().values()} <= {"first", "second"}
    assert_same(bags(out), whole)
    assert not leftovers(out)


@pytest.mark.slow
def test_the_slides_of_a_host_that_dies_are_taken_over(cohort: tuple[Path, dict[str, Bag]], tmp_path: Path) -> None:
    """No process of the other host can be asked after, so its claim has to expire; until then the run waits."""
    manifest, whole = cohort
    out = tmp_path / "bags"
    first = start(manifest, out, pause=60, environment={HOST_VARIABLE: "first"})
    wait_for(lambda: list((out / ".extract" / "claims").glob("[!.]*.claim")))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    claim = out / ".extract" / "claims" / "s00.claim"
    second = start(manifest, out, wait=False, environment={HOST_VARIABLE: "second"}, expiry=3600)
    assert json.loads(second.communicate(timeout=LONG)[0])["left"] == 1
    third = start(manifest, out, environment={HOST_VARIABLE: "third"}, expiry=3600)
    assert third.stderr is not None
    assert any("waiting for 1 slides that other processes work on: s00" in line for line in third.stderr)
    os.utime(claim, (time.time() - DAY, time.time() - DAY))
    assert json.loads(third.communicate(timeout=LONG)[0])["done"] == 1
    assert_same(bags(out), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_a_run_cleanly(cohort: tuple[Path, dict[str, Bag]], tmp_path: Path, number: signal.Signals) -> None:
    manifest, _ = cohort
    out = tmp_path / "bags"
    process = start(manifest, out, pause=60, workers=2)
    wait_for(lambda: len(list((out / ".extract" / "claims").glob("[!.]*.claim"))) == 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=LONG)
    assert "KeyboardInterrupt" in errors
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert not leftovers(out)
    assert not bags(out)
    assert Ledger(out / ".extract" / "outcomes").all() == {}
    assert json.loads((out / "extract.json").read_text())["counts"]["remaining"] == 6


def test_a_second_signal_ends_it_at_once() -> None:
    code = """
import sys, time
from pipelines.batch.interrupts import interruptible
with interruptible():
    for word in ("working", "cleaning up"):
        try:
            print(word, flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            pass
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for word, number in (("working", signal.SIGTERM), ("cleaning up", signal.SIGINT)):
            assert process.stdout.readline() == f"{word}\n"
            process.send_signal(number)
        assert process.wait(LONG) == -signal.SIGINT


@pytest.mark.slow
def test_a_disk_that_fills(cohort: tuple[Path, dict[str, Bag]], tmp_path: Path) -> None:
    """The run ends with one line, since no slide would fare better; with room again it goes on where it was."""
    manifest, whole = cohort
    out = tmp_path / "bags"
    out.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(out)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    try:
        _, errors = start(manifest, out).communicate(timeout=LONG)
        assert "No space left on device; free space there, then give the same command again" in errors
        assert read_failures(out / "failures.csv") == []
        before = bags(out)
        assert len(before) < len(whole)
        assert_same(before, {name: whole[name] for name in before})
        assert not list(out.rglob(".partial-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        report = extract(manifest, out)
        assert (report.done + report.skipped, report.failed) == (len(whole), 0)
        assert_same(bags(out), whole)
    finally:
        subprocess.run(["umount", str(out)], check=False)


def test_names_folders_and_sources(tmp_path: Path) -> None:
    """Blanks and letters of all kinds, one file name twice, a folder that is not there; nothing is written beside a slide."""
    source = tmp_path / "Schnitte von Müller & 山田"
    slides = {
        "Präparat 1, ü": draw_slide(source / "a" / "slide.tif", 1),
        "標本 [2]": draw_slide(source / "b" / "slide.tif", 2),
        "x" * 200: draw_slide(source / "long.tif", 3),
        "gone": source / "no such folder" / "slide.tif",
        "folder": source / "a",
    }
    if os.geteuid():
        slides["locked"] = draw_slide(source / "locked" / "slide.tif", 4)
        slides["locked"].parent.chmod(0)
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    out = tmp_path / "out put"
    report = extract(write_manifest(tmp_path / "cohort.csv", slides), out)
    assert {failure.slide: failure.stage for failure in report.failures} == dict.fromkeys(set(slides) - set(bags(out)), "open")
    assert report.done == 3
    first, second, _ = (bag.coords for bag in bags(out).values())
    assert first is not None
    assert second is not None
    assert first.tolist() != second.tolist()
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
