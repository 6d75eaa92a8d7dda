from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comel.bags.bag import read_bag
from pipelines.batch import run as cohort
from pipelines.batch.claims import Claims
from pipelines.batch.run import SlideOutcome, read_failures
from pipelines.batch.work import OutputFull
from pipelines.extraction.settings import ExtractSettings
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_manifest, write_slide
from tests.places import ROOT

SETTINGS = ExtractSettings(target_mpp=1.0, tile_size=128, batch_size=4)


@pytest.fixture
def slides(tmp_path: Path) -> dict[str, Path]:
    """Three slides with tissue in different places; two have the same file name."""
    folder = tmp_path / "slides"
    (folder / "other").mkdir(parents=True)
    boxes = {"a": (256, 256, 768, 768), "b": (0, 0, 512, 768), "c": (512, 0, 1024, 512)}
    paths = {"a": folder / "slide.tif", "b": folder / "other" / "slide.tif", "c": folder / "third.tif"}
    return {name: write_slide(paths[name], tissue_picture(1024, 1024, box), levels=2) for name, box in boxes.items()}


@pytest.fixture
def manifest(tmp_path: Path, slides: dict[str, Path]) -> Path:
    return write_manifest(tmp_path / "cohort.csv", slides)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("[!.]*.h5"))}


def test_first_run_writes_everything(manifest: Path, tmp_path: Path, encoder: MeanColour) -> None:
    outcomes: list[SlideOutcome] = []
    report = extract_cohort(manifest, tmp_path / "bags", SETTINGS, encoder=encoder, progress=outcomes.append)
    assert (report.done, report.skipped, report.failed) == (3, 0, 0)
    assert report.tiles == encoder.encoded == sum(outcome.tiles for outcome in outcomes) > 10
    assert [outcome.slide_id for outcome in outcomes] == ["a", "b", "c"]
    first, second = (read_bag(tmp_path / "bags" / f"{name}.h5", verify=True) for name in "ab")
    assert first.slide_id == "a"
    assert first.coords is not None
    assert second.coords is not None
    assert not np.array_equal(first.coords, second.coords)
    for name in "abc":
        with Image.open(tmp_path / "bags" / "overlays" / f"{name}.png") as overlay:
            assert overlay.mode == "RGB"
            assert "icc_profile" not in overlay.info
    assert read_failures(tmp_path / "bags" / "failures.csv") == []
    summary = json.loads((tmp_path / "bags" / "extract.json").read_text())
    assert summary["counts"] == {"done": 3, "failed": 0, "remaining": 0, "tiles": report.tiles}
    assert summary["settings"]["target_mpp"] == 1.0


def test_second_run_skips_and_changes_recompute(
    manifest: Path, tmp_path: Path, slides: dict[str, Path], encoder: MeanColour
) -> None:
    out = tmp_path / "bags"
    extract_cohort(manifest, out, SETTINGS, encoder=encoder)
    before = contents(out)

    def run(settings: ExtractSettings = SETTINGS, by: MeanColour = encoder, force: bool = False) -> tuple[int, int, int]:
        report = extract_cohort(manifest, out, settings, encoder=by, force=force)
        return report.done, report.skipped, report.failed

    assert run() == (0, 3, 0)
    assert contents(out) == before
    assert run(ExtractSettings(**{**SETTINGS.model_dump(), "batch_size": 7})) == (0, 3, 0)
    assert run(force=True) == (3, 0, 0)
    assert contents(out) == before
    (out / "overlays" / "b.png").unlink()
    damaged = bytearray((out / "c.h5").read_bytes())
    (out / "c.h5").write_bytes(damaged[: len(damaged) // 2])
    assert run() == (2, 1, 0)
    assert contents(out) == before
    write_slide(slides["a"], tissue_picture(1024, 1024, (0, 0, 300, 300)), levels=2)
    assert run() == (1, 2, 0)
    assert run(by=MeanColour(weights_hash="1" * 64)) == (3, 0, 0)
    assert run(ExtractSettings(target_mpp=1.0, tile_size=64)) == (3, 0, 0)


def test_failing_slides_do_not_stop_the_batch(
    manifest: Path, tmp_path: Path, slides: dict[str, Path], encoder: MeanColour
) -> None:
    out = tmp_path / "bags"
    good = slides["b"].read_bytes()
    slides["b"].write_bytes(b"")
    bare = write_slide(tmp_path / "bare.tif", tissue_picture(600, 600, (0, 0, 600, 600)), mpp=None)
    write_manifest(manifest, {**slides, "bare": bare, "gone": tmp_path / "gone.svs"})
    report = extract_cohort(manifest, out, SETTINGS, encoder=encoder)
    assert (report.done, report.failed) == (2, 3)
    with open(out / "failures.csv", newline="") as stream:
        rows = {row["slide"]: row for row in csv.DictReader(stream)}
    assert {name: row["stage"] for name, row in rows.items()} == {"b": "open", "bare": "mpp", "gone": "open"}
    assert all(row["reason"] and row["remedy"] for row in rows.values())
    assert {failure.slide for failure in report.failures} == set(rows)
    assert not (out / "b.h5").exists()
    slides["b"].write_bytes(good)
    assert extract_cohort(manifest, out, SETTINGS, encoder=encoder).done == 1
    assert [failure.slide for failure in read_failures(out / "failures.csv")] == ["bare", "gone"]
    settings = ExtractSettings(**{**SETTINGS.model_dump(), "assume_mpp": 0.5})
    assert extract_cohort(manifest, out, settings, encoder=encoder).failed == 1


def test_mpp_and_annotation_of_the_manifest_are_used(slides: dict[str, Path], tmp_path: Path, encoder: MeanColour) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (100, 100), 255).save(mask)
    manifest = write_manifest(
        tmp_path / "cohort.csv",
        slides,
        mpp={"a": "1.0", "b": "1.3"},
        annotation={"a": str(mask), "c": str(tmp_path / "none.xml")},
    )
    report = extract_cohort(manifest, tmp_path / "bags", SETTINGS, encoder=encoder)
    assert {failure.slide: failure.stage for failure in report.failures} == {"b": "mpp", "c": "annotation"}
    bag = read_bag(tmp_path / "bags" / "a.h5")
    assert bag.geometry is not None
    assert bag.geometry.level0_mpp_x == 1.0
    assert bag.labels is not None
    assert (bag.labels == 1).all()


def test_a_defect_is_recorded_with_its_stage(manifest: Path, tmp_path: Path) -> None:
    class Broken(MeanColour):
        def encode(self, tiles: np.ndarray) -> np.ndarray:
            raise RuntimeError("CUDA out of memory")

    report = extract_cohort(manifest, tmp_path / "bags", SETTINGS, encoder=Broken())
    assert report.failed == 3
    assert {failure.stage for failure in report.failures} == {"encode"}
    assert "CUDA out of memory" in report.failures[0].reason


@pytest.mark.parametrize("where", ["overlay", "bag"])
def test_full_disk_leaves_nothing_half_written(
    manifest: Path, tmp_path: Path, encoder: MeanColour, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out = tmp_path / "bags"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "overlay":
            patch.setattr("PIL.Image.Image.save", full)
        else:
            patch.setattr("h5py.Group.create_dataset", full)
        with pytest.raises(OutputFull, match=r"bags: No space left on device; free space there, then"):
            extract_cohort(manifest, out, SETTINGS, encoder=encoder)
    assert not list(out.rglob("*.h5"))
    assert not list(out.rglob(".partial-*"))
    assert extract_cohort(manifest, out, SETTINGS, encoder=encoder).done == 3
    assert read_failures(out / "failures.csv") == []


RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from tests.pipelines.small_slides import MeanColour
from comel.errors import ComelError
from tests.pipelines.in_process import extract_cohort
from pipelines.extraction.settings import ExtractSettings

class Slow(MeanColour):
    def encode(self, tiles):
        # Once a bag is there, the next slide is begun and never ends.
        if {hangs} and list(Path(sys.argv[2]).glob("*.h5")):
            sys.stdout.write("begun")
            sys.stdout.flush()
            time.sleep(600)
        return super().encode(tiles)

if {limit}:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
settings = ExtractSettings(target_mpp=1.0, tile_size=128, batch_size=4)
try:
    report = extract_cohort(Path(sys.argv[1]), Path(sys.argv[2]), settings, encoder=Slow())
    sys.stdout.write(f"{{report.done}} {{report.failed}}")
except ComelError as error:
    sys.stdout.write(str(error))
"""


def start(manifest: Path, out: Path, *, hangs: bool = False, limit: int = 0) -> subprocess.Popen[str]:
    code = RUN.format(here=str(ROOT), hangs=hangs, limit=limit)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(manifest), str(out)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_killed_in_the_middle_and_run_again(manifest: Path, tmp_path: Path, encoder: MeanColour) -> None:
    extract_cohort(manifest, tmp_path / "whole", SETTINGS, encoder=encoder)
    out = tmp_path / "bags"
    process = start(manifest, out, hangs=True)
    assert process.stdout is not None
    assert process.stdout.read(5) == "begun"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = contents(out)
    assert len(left) == 1
    for name in left:
        assert read_bag(out / name, verify=True)
    report = extract_cohort(manifest, out, SETTINGS, encoder=encoder)
    assert (report.done, report.skipped, report.failed) == (3 - len(left), len(left), 0)
    for name in "abc":
        again, whole = read_bag(out / f"{name}.h5", verify=True), read_bag(tmp_path / "whole" / f"{name}.h5")
        assert again.features.tobytes() == whole.features.tobytes()
        np.testing.assert_array_equal(again.coords, whole.coords)
        assert again.settings == whole.settings


def test_file_size_limit_of_the_system(manifest: Path, tmp_path: Path) -> None:
    """The operating system itself refuses to write on, as a full disk does; overlays fit below the limit or not."""
    out = tmp_path / "bags"
    process = start(manifest, out, limit=4096)
    output, _ = process.communicate(timeout=600)
    assert output.startswith(f"{out}: File too large; free space there")
    assert not list(out.rglob("*.h5"))
    assert not list(out.rglob("*.png"))
    assert not list(out.rglob(".partial-*"))
    assert extract_cohort(manifest, out, SETTINGS, encoder=MeanColour()).done == 3


def test_old_temporary_files_go_and_young_ones_stay(manifest: Path, tmp_path: Path, encoder: MeanColour) -> None:
    out = tmp_path / "bags"
    out.mkdir()
    old, young = out / ".partial-a-1.h5", out / ".partial-b-2.h5"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, time.time() - cohort._STALE_SECONDS - 60))
    elsewhere = Claims(out / ".extract" / "claims")
    claim = elsewhere.take("another cohort's slide")
    assert claim is not None
    extract_cohort(manifest, out, SETTINGS, encoder=encoder)
    assert not old.exists()
    assert young.exists()
    elsewhere.release(claim)
    extract_cohort(manifest, out, SETTINGS, encoder=encoder)
    assert not young.exists()


def test_real_slides(real_slide: Callable[[str], Path], tmp_path: Path, encoder: MeanColour) -> None:
    names = ["CMU-1-Small-Region.svs", "PDAC-tru-cut_HE3_ds4.tif", "TCGA-CR-7395-01A-01-TS1.svs"]
    paths = {Path(name).stem: real_slide(name) for name in names}
    manifest = write_manifest(tmp_path / "real.csv", paths)
    root = next(iter(paths.values())).parent
    settings = ExtractSettings(target_mpp=1.05)
    report = extract_cohort(manifest, tmp_path / "bags", settings, root=root, encoder=encoder)
    assert [(failure.slide, failure.stage) for failure in report.failures] == [("TCGA-CR-7395-01A-01-TS1", "mpp")]
    settings = ExtractSettings(target_mpp=1.05, assume_mpp=1.052)
    report = extract_cohort(manifest, tmp_path / "bags", settings, root=root, encoder=encoder)
    assert report.failed == 0
    tiles = {name: len(read_bag(tmp_path / "bags" / f"{name}.h5")) for name in paths}
    assert 8 <= tiles["CMU-1-Small-Region"] <= 14
    assert 45 <= tiles["PDAC-tru-cut_HE3_ds4"] <= 60
    assert 150 <= tiles["TCGA-CR-7395-01A-01-TS1"] <= 170
