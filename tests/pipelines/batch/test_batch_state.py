"""Outcomes, plans and the status that is read from them."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from comel.base.files import write_json
from comel.cohort.manifest import ManifestRow
from pipelines.batch.claims import Claims
from pipelines.batch.owner import Owner, this_process
from pipelines.batch.plan import plan_slides
from pipelines.batch.pool import LocalPool, worker_environments
from pipelines.batch.presence import Presence, remove_absent
from pipelines.batch.slide_records import Ledger, SlideRecord, bag_path, files_stamp, inputs_stamp, overlay_path
from pipelines.batch.status import RunningSlide, folder_status, seconds_left
from pipelines.batch.work import SlideWork
from pipelines.extraction.settings import ExtractSettings
from tests.pipelines.in_process import Given
from tests.pipelines.small_slides import MeanColour


def make_row(folder: Path, slide_id: str) -> ManifestRow:
    path, annotation = folder / f"{slide_id}.svs", folder / f"{slide_id}.xml"
    path.write_bytes(b"slide")
    annotation.write_bytes(b"annotation")
    return ManifestRow(2, slide_id, path, "tumour", "colon", annotation=annotation, mpp=0.5)


def finish(row: ManifestRow, out: Path, *, key: str = "key", tiles: int = 10) -> SlideRecord:
    for path in (bag_path(out, row.slide_id), overlay_path(out, row.slide_id)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    files = files_stamp(out, row.slide_id)
    outcome = SlideRecord(row.slide_id, "done", key, inputs_stamp(row), files, tiles, notes=("a note",), ended=1.5)
    Ledger(out / ".extract" / "outcomes").write(outcome)
    return outcome


def fail(row: ManifestRow, out: Path, reason: str, *, key: str = "key") -> SlideRecord:
    outcome = SlideRecord(row.slide_id, "failed", key, inputs_stamp(row), stage="open", reason=reason, remedy="do something")
    Ledger(out / ".extract" / "outcomes").write(outcome)
    return outcome


def replace_file(path: Path) -> None:
    """Other content of the same size, a moment later."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda row, out: replace_file(row.path),
        lambda row, out: replace_file(row.annotation),
        lambda row, out: row.path.unlink(),
        lambda row, out: replace_file(bag_path(out, "a")),
        lambda row, out: bag_path(out, "a").unlink(),
        lambda row, out: overlay_path(out, "a").unlink(),
    ],
    ids=["slide", "annotation", "no slide", "bag", "no bag", "no overlay"],
)
def test_an_outcome_holds_until_a_file_changes(tmp_path: Path, change: Callable[[ManifestRow, Path], None]) -> None:
    row, out = make_row(tmp_path, "a"), tmp_path / "bags"
    outcome = finish(row, out)
    assert Ledger(out / ".extract" / "outcomes").read("a") == outcome
    assert outcome.still_holds(row, "key", out)
    assert not outcome.still_holds(row, "other settings", out)
    assert not outcome.still_holds(replace(row, mpp=0.25), "key", out)
    change(row, out)
    assert not outcome.still_holds(row, "key", out)


def test_an_outcome_is_of_the_file_that_the_manifest_names(tmp_path: Path) -> None:
    """Two slides of equal size and time, whose paths the manifest had confused."""
    one, other, out = make_row(tmp_path, "a"), make_row(tmp_path, "b"), tmp_path / "bags"
    for path in (one.path, other.path, one.annotation, other.annotation):
        assert path is not None
        os.utime(path, ns=(1, 1))
    outcome = finish(one, out)
    assert outcome.still_holds(one, "key", out)
    assert not outcome.still_holds(replace(one, path=other.path), "key", out)
    assert not outcome.still_holds(replace(one, annotation=other.annotation), "key", out)


def test_a_mirax_slide_changes_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    (tmp_path / "a").mkdir()
    path.write_bytes(b"")
    row = ManifestRow(2, "a", path, "tumour", "colon")
    before = inputs_stamp(row)
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"x")
    assert inputs_stamp(row) != before


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"slide_id": "b", "notes": []}', b"\xff"])
def test_an_outcome_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert Ledger(tmp_path).read("a") is None
    assert Ledger(tmp_path).all() == {}


def test_plans(tmp_path: Path) -> None:
    out = tmp_path / "bags"
    rows = {name: make_row(tmp_path, name) for name in ("failed", "done", "new", "other", "changed")}
    fail(rows["failed"], out, "no")
    for name in ("done", "changed"):
        finish(rows[name], out)
    finish(rows["other"], out, key="other settings")
    replace_file(rows["changed"].path)
    ledger = Ledger(out / ".extract" / "outcomes")

    def plan(**options: bool) -> tuple[list[str], list[str]]:
        made = plan_slides(rows.values(), out, ledger, "key", **options)
        return [outcome.slide_id for outcome in made.kept], [task.row.slide_id for task in made.tasks]

    assert plan() == (["done"], ["new", "other", "changed", "failed"])
    assert plan(again=True) == ([], ["done", "new", "other", "changed", "failed"])
    assert plan(only_failed=True) == ([], ["failed"])


def test_status_of_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "bags"
    rows = [make_row(tmp_path, name) for name in "abcdefgh"]
    assert asdict(folder_status(rows, out))["remaining"] == 8
    assert not out.exists()
    state = out / ".extract"
    write_json(state / "run.json", {"key": "key"})
    finish(rows[0], out, tiles=30)
    finish(rows[1], out, tiles=10)
    finish(rows[2], out, key="other settings")
    for row in rows[3:5]:
        fail(row, out, f"{row.path}: no resolution")
    fail(rows[5], out, "another reason")
    fail(rows[6], out, "with other settings", key="other settings")
    claims = Claims(state / "claims")
    presence = Presence(state / "workers", claims, stall_limit=60, beat=0.05)
    claim = claims.take("h")
    assert claim is not None
    with presence.of(claim, lambda: None) as watched:
        watched.hear(("encode", 6, 12))
        until = time.monotonic() + 600
        while not (found := folder_status(rows, out)).running or not found.running[0].tiles_done:
            assert time.monotonic() < until
    presence.close()
    assert (found.slides, found.done, found.remaining, found.tiles) == (8, 2, 3, 40)
    assert found.failed == {"open: no resolution": 2, "open: another reason": 1}
    running = found.running[0]
    assert (running.slide_id, running.host, running.pid) == ("h", this_process().host, os.getpid())
    assert (running.stage, running.tiles_done, running.tiles) == ("encode", 6, 12)
    assert found.tiles_per_second > 0
    assert found.seconds_left is not None
    assert folder_status(rows, out).running == ()


def test_signs_of_a_process_that_ended_are_not_believed(tmp_path: Path) -> None:
    state = tmp_path / ".extract"
    gone = replace(this_process(), pid=2**22 + 1)
    slide = {"slide_id": "a", "stage": "encode", "done": 1, "total": 2, "since": 0.0}
    write_json(state / "workers" / "x.json", {**asdict(gone), "tiles_per_second": 5.0, "running": [slide]})
    (state / "workers" / "y.json").write_text("{")
    found = folder_status([make_row(tmp_path, "a")], tmp_path)
    assert (found.running, found.tiles_per_second) == ((), 0.0)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_who_may_only_read_sees_the_status(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live process of another machine, whose sign has to be compared with a clock, and one that ended without a word."""
    state, row = tmp_path / ".extract", make_row(tmp_path, "a")
    (state / "claims").mkdir(parents=True)
    slide = {"slide_id": "a", "stage": "encode", "done": 1, "total": 2, "since": 0.0}
    for name, owner in (("live", Owner("elsewhere", "boot", 1, 0.0)), ("gone", replace(this_process(), pid=2**22 + 1))):
        write_json(state / "workers" / f"{name}.json", {**asdict(owner), "tiles_per_second": 5.0, "running": [slide]})
    before = sorted(tmp_path.rglob("*"))

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, "no", str(path))

    with monkeypatch.context() as patch:
        for change in ("touch", "unlink", "write_text", "write_bytes", "rename"):
            patch.setattr(Path, change, refuse)
        found = folder_status([row], tmp_path)
    assert [(running.host, running.slide_id) for running in found.running] == [("elsewhere", "a")]
    assert sorted(tmp_path.rglob("*")) == before
    assert [running.host for running in folder_status([row], tmp_path).running] == ["elsewhere"]
    assert sorted(tmp_path.rglob("*")) == before
    remove_absent(state / "workers", Claims(state / "claims"))
    assert [path.name for path in (state / "workers").iterdir()] == ["live.json"]


def test_time_left() -> None:
    def slide(done: int, tiles: int) -> RunningSlide:
        return RunningSlide("x", "host", 1, "encode", done, tiles, 0.0)

    assert seconds_left(0, 5, 100, [], 0.0) == 0.0
    assert seconds_left(3, 0, 0, [], 10.0) is None
    assert seconds_left(3, 2, 40, [], 0.0) is None
    assert seconds_left(3, 2, 40, [], 10.0) == pytest.approx(3 * 20 / 10)
    assert seconds_left(3, 2, 40, [slide(5, 20), slide(0, 0)], 10.0) == pytest.approx((2 * 20 + 15) / 10)


def test_a_stalled_slide_is_told(tmp_path: Path) -> None:
    claims, stalled = Claims(tmp_path / "claims"), []
    presence = Presence(tmp_path / "workers", claims, stall_limit=0.2, beat=0.05)
    claim = claims.take("a")
    assert claim is not None
    with presence.of(claim, lambda: stalled.append("a")) as watched:
        until = time.monotonic() + 600
        while not stalled:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert watched.has_stalled
    presence.close()


@pytest.mark.parametrize(
    ("workers", "devices", "environment", "expected"),
    [
        (1, 0, {}, [{}]),
        (3, 0, {}, [{"OMP_NUM_THREADS": "2"}] * 3),
        (9, 0, {}, [{"OMP_NUM_THREADS": "1"}] * 9),
        (2, 0, {"OMP_NUM_THREADS": "1"}, [{}, {}]),
        (2, 0, {"OMP_NUM_THREADS": "many"}, [{"OMP_NUM_THREADS": "4"}] * 2),
        (2, 1, {}, [{"OMP_NUM_THREADS": "4"}] * 2),
        (2, 2, {}, [{"OMP_NUM_THREADS": "4"}, {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "1"}]),
        (
            3,
            2,
            {"CUDA_VISIBLE_DEVICES": "5,7", "OMP_NUM_THREADS": "3"},
            [{}, {"CUDA_VISIBLE_DEVICES": "7"}, {"CUDA_VISIBLE_DEVICES": "5"}],
        ),
    ],
)
def test_each_worker_has_its_device_or_its_cores(
    workers: int, devices: int, environment: dict[str, str], expected: list[dict[str, str]]
) -> None:
    assert worker_environments(workers, devices, 8, 8, environment) == expected


def test_a_lone_worker_starts_no_more_threads_than_it_may_use() -> None:
    assert worker_environments(1, 0, 2, 64, {}) == [{"OMP_NUM_THREADS": "2"}]
    assert worker_environments(1, 0, 2, 64, {"OMP_NUM_THREADS": "9"}) == [{}]


@pytest.mark.parametrize(
    ("device", "wanted", "expected"),
    [
        ("cuda", None, [None, "1", "2"]),
        ("cuda", 2, [None, "1"]),
        ("cuda:1", None, [None]),  # its worker has to see the devices that come before
        ("cuda:1", 2, [None, None]),
    ],
)
def test_workers_of_a_machine_with_three_devices(
    tmp_path: Path, device: str, wanted: int | None, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []

    class Started:
        """Takes the place of a child process; what it is asked is done here."""

        def __init__(self, *, used_bytes: int | None, environment: dict[str, str]) -> None:
            started.append(environment)

        def call(self, function: Callable[..., object], *arguments: object) -> object:
            return function(*arguments)

    monkeypatch.setattr("pipelines.batch.pool.KillableWorker", Started)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    encoder = MeanColour()
    encoder.device = device
    LocalPool(wanted).describe(SlideWork(tmp_path, ExtractSettings(), device, "run", encoder_loader=Given(encoder)))
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in started] == expected


def test_outcomes_are_plain_json(tmp_path: Path) -> None:
    outcome = finish(make_row(tmp_path, "a"), tmp_path / "bags")
    said = json.loads((tmp_path / "bags" / ".extract" / "outcomes" / "a.json").read_text())
    assert said == {**asdict(outcome), "notes": ["a note"]}
