"""What is done again, and what is kept, where the slides of a cohort change between two runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comel.cohort.manifest import read_manifest
from pipelines.batch.run import read_failures
from pipelines.batch.status import folder_status
from pipelines.extraction.settings import ExtractSettings
from tests.pipelines.batch.small_cohort import SETTINGS, Trapped, bags, draw_slide, write_cohort
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import GLASS, tissue_picture, write_manifest, write_slide


def notes(out: Path) -> dict[str, list[str]]:
    """What ``extract.json`` says of each slide."""
    return {name: slide["notes"] for name, slide in json.loads((out / "extract.json").read_text())["slides"].items()}


def counts(manifest: Path, out: Path, settings: ExtractSettings = SETTINGS, **options: Any) -> tuple[int, int, int]:
    """Slides that were done, skipped and failed. What is looked at here is the same with and without worker processes."""
    report = extract_cohort(manifest, out, settings, encoder=Trapped(), **options)
    return report.done, report.skipped, report.failed


def test_slides_that_the_manifest_had_swapped_are_done_again_and_moved_ones_are_not(tmp_path: Path) -> None:
    out, slides = tmp_path / "bags", {"a": tmp_path / "a.tif", "b": tmp_path / "b.tif"}
    for number, path in enumerate(slides.values()):
        draw_slide(path, number)
    size = max(path.stat().st_size for path in slides.values())
    for path in slides.values():
        with open(path, "ab") as stream:
            stream.write(b"\0" * (size - path.stat().st_size))
        os.utime(path, ns=(10**18, 10**18))
    manifest = write_manifest(tmp_path / "cohort.csv", {"a": slides["b"], "b": slides["a"]})
    assert counts(manifest, out) == (2, 0, 0)
    before = bags(out)
    write_manifest(manifest, slides)
    assert counts(manifest, out) == (2, 0, 0)
    after = bags(out)
    assert np.array_equal(after["a"].features, before["b"].features)
    assert np.array_equal(after["b"].features, before["a"].features)
    assert counts(manifest, out) == (0, 2, 0)
    (tmp_path / "archive").mkdir()
    moved = {name: path.rename(tmp_path / "archive" / path.name) for name, path in slides.items()}
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert counts(write_manifest(manifest, moved), out) == (0, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.h5")} == written


def test_notes_stay_when_a_bag_is_looked_at_again(tmp_path: Path) -> None:
    """A slide of glass and one coarser than the tiles; both with nothing but their bags left, verified, and touched."""
    out, glass = tmp_path / "bags", np.full((640, 640, 3), GLASS, np.uint8)
    slides = {"glass": write_slide(tmp_path / "glass.tif", glass), "coarse": draw_slide(tmp_path / "coarse.tif")}
    manifest = write_manifest(tmp_path / "cohort.csv", slides, mpp={"coarse": "1.05"})
    assert counts(manifest, out) == (2, 0, 0)
    said = {"glass": ["no tissue found"], "coarse": ["slide coarser than 1 um/px: its tiles were enlarged"]}
    assert notes(out) == said
    shutil.rmtree(out / ".extract")
    (out / "extract.json").unlink()
    assert counts(manifest, out) == (0, 2, 0)
    assert notes(out) == said
    assert counts(manifest, out, verify=True) == (0, 2, 0)
    assert notes(out) == said
    for path in slides.values():
        path.touch()
    assert counts(manifest, out) == (0, 2, 0)
    assert notes(out) == said


@pytest.mark.parametrize("recorded", [True, False], ids=["by the outcomes", "by the bags"])
def test_another_assumed_mpp_does_again_what_used_it_and_nothing_else(tmp_path: Path, recorded: bool) -> None:
    out, picture = tmp_path / "bags", tissue_picture(640, 640, (64, 64, 576, 576))
    slides = {
        "states": write_slide(tmp_path / "states.tif", picture, mpp=0.5),
        "told": write_slide(tmp_path / "told.tif", picture, mpp=None),
        "silent": write_slide(tmp_path / "silent.tif", picture, mpp=None),
    }
    manifest = write_manifest(tmp_path / "cohort.csv", slides, mpp={"told": "0.8"})

    def run(assume_mpp: float | None) -> tuple[tuple[int, int, int], set[str]]:
        """What a run tells, and which bags it wrote."""
        if not recorded:
            shutil.rmtree(out / ".extract", ignore_errors=True)
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
        told = counts(manifest, out, SETTINGS.model_copy(update={"assume_mpp": assume_mpp}))
        status = folder_status(read_manifest(manifest).rows, out)
        assert (status.done, sum(status.failed.values()), status.remaining) == (told[0] + told[1], told[2], 0)
        state = json.loads((out / "extract.json").read_text())["counts"]
        assert (state["done"], state["failed"], state["remaining"]) == (told[0] + told[1], told[2], 0)
        return told, {path.stem for path in out.glob("*.h5") if before.get(path) != path.stat().st_mtime_ns}

    def scales() -> dict[str, float]:
        return {name: bag.geometry.level0_mpp_x for name, bag in bags(out).items() if bag.geometry is not None}

    assert run(None) == ((2, 0, 1), {"states", "told"})
    assert run(1.0) == ((1, 2, 0), {"silent"})
    assert scales() == pytest.approx({"states": 0.5, "told": 0.8, "silent": 1.0}, rel=1e-6)
    assert run(0.5) == ((1, 2, 0), {"silent"})
    assert scales() == pytest.approx({"states": 0.5, "told": 0.8, "silent": 0.5}, rel=1e-6)
    assert run(0.5) == ((0, 3, 0), set())
    assert run(None) == ((0, 2, 1), set())
    assert [name for name, bag in bags(out).items() if bag.settings["assumed_mpp"] is not None] == ["silent"]
    write_manifest(manifest, slides, mpp={"told": "0.8", "silent": "0.5"})
    assert run(None) == ((1, 2, 0), {"silent"})
    assert run(1.0) == ((0, 3, 0), set())


def test_a_bag_outlives_its_slide(tmp_path: Path) -> None:
    manifest, out = write_cohort(tmp_path, 2), tmp_path / "bags"
    assert counts(manifest, out) == (2, 0, 0)
    [slide, _] = sorted((tmp_path / "slides").iterdir())
    archived = slide.rename(tmp_path / "archived.tif")
    said = {"s00": ["its slide no longer exists"], "s01": []}
    for verify in (False, True, False):
        assert counts(manifest, out, verify=verify) == (0, 2, 0)
        assert notes(out) == said
        assert folder_status(read_manifest(manifest).rows, out).done == 2
    shutil.rmtree(out / ".extract")
    assert counts(manifest, out) == (0, 2, 0)
    assert notes(out) == said
    archived.rename(slide)
    assert counts(manifest, out) == (0, 2, 0)
    assert notes(out) == {"s00": [], "s01": []}
    slide.unlink()
    other = SETTINGS.model_copy(update={"dtype": "float32"})
    assert counts(manifest, out, other) == (1, 0, 1)
    [failure] = read_failures(out / "failures.csv")
    assert (failure.slide, failure.stage) == ("s00", "open")


@pytest.mark.parametrize("spoil", ["bag", "name"])
def test_a_bag_that_is_damaged_or_of_another_slide_needs_its_slide(tmp_path: Path, spoil: str) -> None:
    manifest, out = write_cohort(tmp_path, 1), tmp_path / "bags"
    assert counts(manifest, out) == (1, 0, 0)
    slide = tmp_path / "slides" / "s00.tif"
    slide.unlink()
    if spoil == "bag":
        content = bytearray((out / "s00.h5").read_bytes())
        place = content.find(bags(out)["s00"].features.tobytes())
        content[place] ^= 1
        (out / "s00.h5").write_bytes(content)
    else:
        write_manifest(manifest, {"s00": tmp_path / "slides" / "misspelt.tif"})
    assert counts(manifest, out) == (0, 0, 1)
