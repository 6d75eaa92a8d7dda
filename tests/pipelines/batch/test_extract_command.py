"""``comel extract`` as a user types it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from comel.app.commands.extract_view import status_line, watch
from comel.bags.bag import read_bag
from pipelines.batch.status import RunningSlide, Status
from tests.pipelines.batch.small_cohort import draw_slide, leftovers, wait_for, write_cohort
from tests.places import ROOT

ENCODER = """
import os, time
import numpy
class Mean:
    name, dimension, weights_hash = "mean", 3, "0" * 64
    def __init__(self, device):
        pass
    def encode(self, tiles):
        if tiles.shape[1] == 64:  # no probe
            time.sleep(float(os.environ.get("PAUSE", 0)))
        return (tiles.mean(axis=(1, 2)) / 255).astype(numpy.float32)
"""


RUN = ["cohort.csv", "--out", "bags", "--encoder", "mean.py:Mean", "--target-mpp", "1", "--tile-size", "64"]


def comel(*arguments: object, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "comel.app.cli", "extract", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=6000,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_cohort_from_start_to_end(tmp_path: Path) -> None:
    (tmp_path / "mean.py").write_text(ENCODER)
    write_cohort(tmp_path, 2)
    lost = tmp_path / "slides" / "s01.tif"
    lost.unlink()
    (tmp_path / "extract.yaml").write_text("encoder: mean.py:Mean\ntarget_mpp: 0.5\ntile_size: 64\nworkers: 1\n")
    code, output, errors = comel(*RUN[:3], "--config", "extract.yaml", "--set", "target_mpp=1.0", folder=tmp_path)
    assert code == 1
    assert read_bag(tmp_path / "bags" / "s00.h5").contract.mpp == 1.0
    assert re.search(r"^1 done, 0 kept, 1 failed; \d+ tiles, \d+ s$", output, re.MULTILINE)
    assert "extract: s00 done, " in errors
    assert "extract: s01 failed, open: " in errors
    assert f"all failures: {Path('bags') / 'failures.csv'}" in errors

    code, output, _ = comel("cohort.csv", "--out", "bags", "--status", folder=tmp_path)
    assert code == 0
    assert re.search(r"^done +1 of 2, \d+ tiles\nremaining +0\nfailed +1\n +1  open: no such", output, re.MULTILINE)

    code, output, _ = comel("cohort.csv", "--out", "bags", "--status", "--json", folder=tmp_path)
    status = json.loads(output)
    assert (code, status["slides"], status["done"], status["remaining"], status["running"]) == (0, 2, 1, 0, [])
    assert sum(status["failed"].values()) == 1


def test_an_encoder_that_no_worker_may_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mean.py").write_text(
        ENCODER.replace("        pass", "        self.kept = numpy.ones(64 << 20); time.sleep(600)")
    )
    write_cohort(tmp_path, 1)
    code, output, errors = comel(*RUN, "--worker-memory", 0.25, folder=tmp_path)
    assert (code, output) == (2, "")
    last = errors.splitlines()[-1]
    assert last == "comel: mean.py:Mean: cannot be loaded (it used more than 0.25 GiB of memory); raise --worker-memory"
    assert not list((tmp_path / "bags" / ".extract" / "runs").iterdir())


@pytest.mark.slow
def test_going_on_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "mean.py").write_text(ENCODER)
    write_cohort(tmp_path, 2)
    lost = tmp_path / "slides" / "s01.tif"
    lost.unlink()

    def run(*options: object) -> tuple[int, int, int, int]:
        code, output, _ = comel(*RUN, "--json", *options, folder=tmp_path)
        report = json.loads(output)
        return code, report["done"], report["skipped"], report["failed"]

    assert run() == (1, 1, 0, 1)
    draw_slide(lost, 1)
    assert run("--retry-failed", "--workers", 2) == (0, 1, 0, 0)
    assert run("--verify") == (0, 0, 2, 0)
    assert run("--dtype", "float32") == (0, 2, 0, 0)


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run that works on two slides for as long as it lives, in a process group of its own as a terminal gives it one."""
    (tmp_path / "mean.py").write_text(ENCODER)
    write_cohort(tmp_path, 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "comel.app.cli", "extract", *RUN, "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PAUSE": "600"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out = tmp_path / "bags"
    try:
        wait_for(lambda: len(list((out / ".extract" / "claims").glob("[!.]*.claim"))) == 2)
        yield process, out
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_stops_it_and_the_same_command_goes_on(under_way: tuple[subprocess.Popen[str], Path]) -> None:
    process, out = under_way
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=6000)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "comel: interrupted; the same command continues where it stopped"
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=600)[1]
    assert not leftovers(out)
    assert not list(out.glob("*.h5"))
    code, output, _ = comel(*RUN, folder=out.parent)
    assert (code, output.split(";")[0]) == (0, "2 done, 0 kept, 0 failed")
    assert not leftovers(out)


def test_a_second_ctrl_c_ends_it_at_once(under_way: tuple[subprocess.Popen[str], Path]) -> None:
    """It comes while the run cleans up after the first, held up by a file that it cannot read to its end."""
    process, out = under_way
    children = psutil.Process(process.pid).children(recursive=True)
    endless = out / ".extract" / "outcomes" / "endless.json"
    endless.parent.mkdir(exist_ok=True)
    os.mkfifo(endless)
    os.killpg(process.pid, signal.SIGINT)
    writers: list[int] = []

    def is_being_read() -> bool:
        with contextlib.suppress(OSError):
            writers.append(os.open(endless, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    wait_for(is_being_read)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=6000) == -signal.SIGINT
    os.close(writers[0])
    endless.unlink()
    assert not psutil.wait_procs(children, timeout=600)[1]
    assert not list(out.rglob(".partial-*"))
    code, output, _ = comel(*RUN, folder=out.parent)
    assert (code, output.split(";")[0]) == (0, "2 done, 0 kept, 0 failed")
    assert not leftovers(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "dusk"], "comel: --engine: no 'dusk'; did you mean 'dask'?"),
        (["--engine", "dask"], "comel: --engine dask: the scheduler is not named; give --scheduler ADDRESS"),
        (["--engine", "dask", "--workers", "2"], "comel: --workers applies to this machine only; "),
        (["--scheduler", "tcp://127.0.0.1:1"], "comel: a scheduler was given, but the engine is local; add --engine dask"),
    ],
)
def test_mistakes(
    tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from comel.app.cli import main

    write_cohort(tmp_path, 1)
    monkeypatch.setattr(
        "sys.argv", ["comel", "extract", str(tmp_path / "cohort.csv"), "--out", str(tmp_path / "bags"), *options]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "bags").exists()


def status() -> Status:
    running = RunningSlide("slide-7", "ward", 4711, "encode", 120, 480, time.time() - 65)
    return Status(10, 6, {"open": 1}, 3, (running,), 3000, 42.4, 3725.0)


def test_the_status_in_a_line() -> None:
    assert status_line(status()) == "6 of 10 done, 1 failed, 1 running, 42 tiles/s, 1 h 02 min left"


def test_the_view_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with watch(status) as say:
        say("slide-3 failed, open: no such file [in brackets]")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "slide-3 failed, open: no such file [in brackets]" in text
    assert "6 of 10 done, 1 failed, 1 running, 42 tiles/s, 1 h 02 min left" in text
    assert re.search(r"slide-7 +encode 120 of 480 tiles, 1 min 0\d s", text)


def test_the_view_in_a_log_and_none(capsys: pytest.CaptureFixture[str]) -> None:
    with watch(status) as say:
        say("slide-3 done")
    assert capsys.readouterr().err.splitlines() == ["extract: slide-3 done", f"extract: {status_line(status())}"]
    with watch(status, quiet=True) as say:
        say("slide-3 done")
    assert capsys.readouterr().err == ""
