"""Slides on a real Dask cluster of this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from comel.cohort.manifest import read_manifest
from comel.errors import ConfigError
from pipelines.batch.claims import Claims
from pipelines.batch.dask_pool import DaskPool, child_environment
from pipelines.batch.presence import Present, read_present
from pipelines.batch.run import CohortReport, CohortRun, read_failures
from tests.pipelines.batch.small_cohort import (
    CRASHES,
    EATS,
    SETTINGS,
    Trapped,
    assert_same,
    bags,
    leftovers,
    wait_for,
    write_cohort,
)
from tests.pipelines.in_process import Given, extract_cohort


def test_the_same_files_and_failures_as_without_dask(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    manifest, out = write_cohort(tmp_path, 2, crashes=CRASHES, eats=EATS), tmp_path / "bags"
    alone = write_cohort(tmp_path / "alone", 2)
    assert extract_cohort(alone, tmp_path / "alone" / "bags", SETTINGS, encoder=Trapped()).done == 2
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        pool = DaskPool(cluster.scheduler_address)
        run = CohortRun(read_manifest(manifest).rows, out, SETTINGS, pool, encoder_loader=Given(Trapped()), worker_memory=0.5)
        report = run.run()
    assert (report.done, report.failed) == (2, 2)
    assert {failure.slide: failure.reason for failure in report.failures} == {
        "crashes": "the process died (signal SIGSEGV)",
        "eats": "it used more than 0.5 GiB of memory; it was stopped",
    }
    assert {failure.slide for failure in read_failures(out / "failures.csv")} == {"crashes", "eats"}
    assert_same(bags(out), bags(tmp_path / "alone" / "bags"))
    assert not leftovers(out)


@pytest.mark.slow
def test_a_dask_worker_is_killed_in_the_middle_of_a_slide(tmp_path: Path) -> None:
    """The same bags and the same failures as without Dask; the killed worker's slide is done by another."""
    distributed = pytest.importorskip("distributed")
    manifest, out = write_cohort(tmp_path, 5, crashes=CRASHES), tmp_path / "bags"
    alone, go_on = write_cohort(tmp_path / "alone", 5), tmp_path / "go on"
    assert extract_cohort(alone, tmp_path / "alone" / "bags", SETTINGS, encoder=Trapped()).done == 5
    reports: list[CohortReport] = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        pool = DaskPool(cluster.scheduler_address)
        run = CohortRun(read_manifest(manifest).rows, out, SETTINGS, pool, encoder_loader=Given(Trapped(until=go_on)))
        thread = threading.Thread(target=lambda: reports.append(run.run()))
        thread.start()
        claims = Claims(out / ".extract" / "claims")

        def encoding() -> list[Present]:
            present = read_present(out / ".extract" / "workers", claims)
            return [one for one in present if any((slide.slide_id, slide.stage) == ("s00", "encode") for slide in one.running)]

        wait_for(encoding)
        os.kill(encoding()[0].owner.pid, signal.SIGKILL)
        claims.close()
        go_on.touch()
        thread.join(600)
    assert [(report.done, report.failed) for report in reports] == [(5, 1)]
    assert [(f.slide, f.stage, f.reason) for f in read_failures(out / "failures.csv")] == [
        ("crashes", "encode", "the process died (signal SIGSEGV)")
    ]
    assert_same(bags(out), bags(tmp_path / "alone" / "bags"))
    assert not list((out / ".extract" / "claims").glob("[!.]*.claim"))


@pytest.mark.slow
def test_a_run_on_dask_is_interrupted(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    manifest, out = write_cohort(tmp_path, 4), tmp_path / "bags"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        rows, pool = read_manifest(manifest).rows, DaskPool(cluster.scheduler_address)
        run = CohortRun(rows, out, SETTINGS, pool, encoder_loader=Given(Trapped(60)))

        def interrupt() -> None:
            wait_for(lambda: len(list((out / ".extract" / "claims").glob("[!.]*.claim"))) == 2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run.run()
        wait_for(lambda: not leftovers(out))
    assert not bags(out)
    assert not (out / ".extract" / "outcomes").exists()


@pytest.mark.parametrize(
    ("own", "neighbours", "cores", "environment", "expected"),
    [
        (1, 4, 16, {}, "4"),
        (1, 4, 16, {"OMP_NUM_THREADS": "1"}, "4"),  # Dask's own doing
        (1, 4, 16, {"OMP_NUM_THREADS": "6"}, None),
        (2, 1, 16, {}, "8"),  # joined after the others were counted
        (1, 4, 3, {}, "3"),  # a work of its own on a machine that others use too
        (1, 40, 16, {}, "1"),
    ],
)
def test_dask_workers_of_a_machine_share_its_cores(
    own: int, neighbours: int, cores: int, environment: dict[str, str], expected: str | None
) -> None:
    assert child_environment(own, neighbours, cores, 16, environment).get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: DaskPool(), "the scheduler is not named; give --scheduler"),
        (lambda folder: DaskPool(scheduler_file=folder / "none.json"), r"none.json: no such file; start the scheduler"),
        (lambda folder: DaskPool("nonsense://here"), "nonsense://here: no Dask scheduler answers"),
    ],
)
def test_a_scheduler_that_is_not_there(tmp_path: Path, make: Callable[[Path], DaskPool], message: str) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match=message):
        make(tmp_path)


def test_dask_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"Dask is not installed; run: pip install 'comel-mil\[cluster\]'"):
        DaskPool("tcp://127.0.0.1:8786")
